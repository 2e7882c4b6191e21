//! What the sets show.

use super::params::{Look, ShapesParams};
use super::set::Set;
use super::style::Style;

/// How the scene behind an object is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scenes {
    /// Any, whatever the object.
    Uniform,
    /// The object's own with this probability, else one of the others.
    Own(f64),
    /// One of the others.
    Wrong,
}

/// What a set shows.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) set: Set,
    /// Styles with their weights.
    pub(super) styles: &'static [(Style, f64)],
    pub(super) scenes: Scenes,
    pub(super) look: Look,
    /// Probability that the object is all but invisible.
    pub(super) p_hide: f64,
}

impl Recipe {
    pub(super) fn of(params: &ShapesParams, set: Set) -> Self {
        const PHOTO: &[(Style, f64)] = &[(Style::Photo, 1.0)];
        const MIXED: &[(Style, f64)] = &[
            (Style::Photo, 0.4),
            (Style::Sketch, 0.2),
            (Style::Negative, 0.2),
            (Style::Paint, 0.2),
        ];
        const OTHER: &[(Style, f64)] = &[
            (Style::Sketch, 1.0),
            (Style::Negative, 1.0),
            (Style::Paint, 1.0),
        ];
        let looks = &params.looks;
        let (styles, scenes, look, p_hide) = match set {
            Set::Train | Set::ColdStart | Set::Val => {
                (PHOTO, Scenes::Own(params.rho), &looks.id, params.p_hide)
            }
            Set::Pretrain => (MIXED, Scenes::Uniform, &looks.pretrain, 0.0),
            Set::Rendition => (OTHER, Scenes::Uniform, &looks.rendition, 0.0),
            Set::Adversarial => (PHOTO, Scenes::Wrong, &looks.adversarial, 0.0),
        };
        Self {
            set,
            styles,
            scenes,
            look: look.clone(),
            p_hide,
        }
    }
}

//! What the sets show.

use crate::data::Split;

use super::params::{Look, ShapesParams};
use super::picture::Style;

/// A set of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// The samples that are scored and fine-tuned on.
    Train,
    /// The few samples of the cold start.
    ColdStart,
    /// Evaluation in distribution.
    Val,
    /// All styles, every scene as likely for every object.
    Pretrain,
    /// Out of distribution: other styles.
    Rendition,
    /// Out of distribution: always another object's scene.
    Adversarial,
}

impl Set {
    /// All sets; the first is the stage's default output.
    pub const ALL: [Self; 6] = [
        Self::Train,
        Self::ColdStart,
        Self::Val,
        Self::Pretrain,
        Self::Rendition,
        Self::Adversarial,
    ];

    /// The set's name, which is its output's too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::ColdStart => "cold_start",
            Self::Val => "val",
            Self::Pretrain => "pretrain",
            Self::Rendition => "rendition",
            Self::Adversarial => "adversarial",
        }
    }

    /// In or out of distribution.
    pub fn split(self) -> Split {
        match self {
            Self::Rendition | Self::Adversarial => Split::Ood,
            Self::Train | Self::ColdStart | Self::Val | Self::Pretrain => Split::Id,
        }
    }
}

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

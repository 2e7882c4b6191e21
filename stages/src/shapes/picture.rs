//! Drawing the facts of one picture.

use dcsft_tensor::rng::{Stream, StreamKey};

use super::names::OBJECTS;
use super::paint;
use super::params::ShapesParams;
use super::recipe::{Recipe, Scenes};
use super::set::Set;
use super::style::{Pose, Style};

/// One picture with what it shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Index into [`OBJECTS`].
    pub object: usize,
    /// Index into [`super::SCENES`].
    pub scene: usize,
    /// How it is shown.
    pub style: Style,
    /// The object is all but invisible.
    pub hidden: bool,
    /// `size * size * 3` bytes, row-major.
    pub pixels: Vec<u8>,
}

/// The picture of `set` with this index: a pure function of its arguments.
pub fn picture(params: &ShapesParams, set: Set, index: u64) -> Picture {
    draw(
        &Recipe::of(params, set),
        params.image_size,
        &mut stream(params, set, index),
    )
}

/// The random stream of one picture.
pub(super) fn stream(params: &ShapesParams, set: Set, index: u64) -> Stream {
    StreamKey::new("shapes", params.seed)
        .text(set.name())
        .number(index)
        .stream()
}

pub(super) fn draw(recipe: &Recipe, size: u32, stream: &mut Stream) -> Picture {
    let object = stream.below(OBJECTS.len() as u64) as usize;
    let scene = scene(recipe.scenes, object, stream);
    let style = style(recipe.styles, stream);
    let hidden = stream.uniform() < recipe.p_hide;
    let pose = pose(recipe, size, hidden, stream);
    let sigma = within(stream, recipe.look.noise);
    let pixels = paint::paint(object, scene, style, &pose, size, sigma, stream);
    Picture {
        object,
        scene,
        style,
        hidden,
        pixels,
    }
}

fn scene(scenes: Scenes, object: usize, stream: &mut Stream) -> usize {
    let count = OBJECTS.len() as u64;
    let own = match scenes {
        Scenes::Uniform => return stream.below(count) as usize,
        Scenes::Own(rho) => stream.uniform() < rho,
        Scenes::Wrong => false,
    };
    if own {
        return object;
    }
    let other = stream.below(count - 1) as usize;
    if other < object { other } else { other + 1 }
}

fn style(styles: &[(Style, f64)], stream: &mut Stream) -> Style {
    let mut left = stream.uniform() * styles.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut chosen = Style::Photo;
    for &(style, weight) in styles {
        chosen = style;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    chosen
}

fn pose(recipe: &Recipe, size: u32, hidden: bool, stream: &mut Stream) -> Pose {
    let look = &recipe.look;
    let half = f64::from(size) / 2.0;
    // The object's centre wanders by a sixteenth of the image: one pixel of 16.
    let wander = f64::from(size) / 16.0;
    let radius = half * within(stream, look.scale);
    let centre = [0, 1].map(|_| half - 0.5 + stream.range(-wander, wander));
    let angle = stream.range(-look.rotation, look.rotation);
    let occluder = (stream.uniform() < look.occlusion).then(|| {
        let middle = centre.map(|at| at + radius * stream.range(-0.6, 0.6));
        (
            middle,
            [0, 1].map(|_| radius * within(stream, look.occluder)),
        )
    });
    let opacity = if hidden {
        stream.range(0.0, 0.05)
    } else {
        within(stream, look.visibility)
    };
    Pose {
        radius,
        centre,
        angle,
        occluder,
        opacity,
    }
}

/// Uniform in a range that may be a point.
fn within(stream: &mut Stream, [low, high]: [f64; 2]) -> f64 {
    stream.range(low, high)
}

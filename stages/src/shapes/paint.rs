//! From a picture's facts to pixels. Arithmetic is in `f64` with `libm` where IEEE leaves rounding open, so
//! that every platform paints the same bytes.

use std::f64::consts::TAU;

use dcsft_tensor::rng::Stream;

use super::field::field;
use super::noise;
use super::style::{Pose, Style};

type Rgb = [f64; 3];

/// Paints `size * size` pixels, row-major RGB, with pixel noise of standard deviation `sigma`.
pub(super) fn paint(
    object: usize,
    scene: usize,
    style: Style,
    pose: &Pose,
    size: u32,
    sigma: f64,
    stream: &mut Stream,
) -> Vec<u8> {
    let backdrop = Backdrop::draw(scene, style, size, stream);
    let colour = object_colour(stream);
    let second = match style {
        Style::Paint => hsv(
            stream.uniform(),
            stream.range(0.2, 0.9),
            stream.range(0.4, 1.0),
        ),
        Style::Photo | Style::Sketch | Style::Negative => colour,
    };
    // A line is one pixel of 16 thick, a checker's field two, at every size.
    let thickness = f64::from(size) / 16.0;
    let (sine, cosine) = (libm::sin(pose.angle), libm::cos(pose.angle));
    let mut values = Vec::with_capacity((size * size * 3) as usize);
    for y in 0..size {
        for x in 0..size {
            let (dx, dy) = (f64::from(x) - pose.centre[0], f64::from(y) - pose.centre[1]);
            let (u, v) = (cosine * dx + sine * dy, cosine * dy - sine * dx);
            let distance = pose.radius * field(object, u / pose.radius, v / pose.radius);
            let shown = if occluded(pose, x, y) {
                0.0
            } else {
                pose.opacity
            };
            let fill = shown * (0.5 - distance).clamp(0.0, 1.0);
            let line = shown * (thickness - distance.abs()).clamp(0.0, 1.0);
            let odd = (x * 8 / size + y * 8 / size) % 2 == 1;
            let front = if odd { second } else { colour };
            values.extend(blend(style, backdrop.at(x, y), front, fill, line));
        }
    }
    noise::add(&mut values, sigma, stream);
    values
        .into_iter()
        .map(|value| (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8)
        .collect()
}

fn blend(style: Style, back: Rgb, front: Rgb, fill: f64, line: f64) -> Rgb {
    let mix = |back: f64, front: f64, share: f64| back * (1.0 - share) + front * share;
    std::array::from_fn(|channel| match style {
        Style::Photo => mix(back[channel], front[channel], fill),
        Style::Sketch => mix(back[channel], 0.1, line),
        Style::Negative => mix(back[channel], 0.9, fill),
        Style::Paint => mix(back[channel], front[channel], fill) * (1.0 - 0.8 * line),
    })
}

fn occluded(pose: &Pose, x: u32, y: u32) -> bool {
    pose.occluder.is_some_and(|(middle, half)| {
        (f64::from(x) - middle[0]).abs() <= half[0] && (f64::from(y) - middle[1]).abs() <= half[1]
    })
}

/// What is behind the object: a scene (eight hues, striped across or down) or a plain grey.
struct Backdrop {
    colour: Rgb,
    /// Brightness added, by row or by column.
    stripes: Vec<f64>,
    rows: bool,
}

impl Backdrop {
    fn draw(scene: usize, style: Style, size: u32, stream: &mut Stream) -> Self {
        let grey = |value: f64| Self {
            colour: [value; 3],
            stripes: vec![0.0; size as usize],
            rows: true,
        };
        match style {
            Style::Sketch => grey(stream.range(0.8, 1.0)),
            Style::Negative => grey(stream.range(0.0, 0.2)),
            Style::Photo | Style::Paint => {
                let hue = (scene % 8) as f64 / 8.0 + stream.range(-0.02, 0.02);
                let colour = hsv(hue, 0.65, stream.range(0.45, 0.65));
                let phase = stream.range(0.0, TAU);
                let stripe =
                    |k: u32| 0.12 * libm::sin(TAU * f64::from(4 * k) / f64::from(size) + phase);
                Self {
                    colour,
                    stripes: (0..size).map(stripe).collect(),
                    rows: scene < 8,
                }
            }
        }
    }

    fn at(&self, x: u32, y: u32) -> Rgb {
        let stripe = self.stripes[if self.rows { y } else { x } as usize];
        self.colour.map(|channel| channel + stripe)
    }
}

/// Any hue, independent of the class; three in ten objects are dark.
fn object_colour(stream: &mut Stream) -> Rgb {
    let colour = hsv(
        stream.uniform(),
        stream.range(0.2, 0.9),
        stream.range(0.7, 1.0),
    );
    let dark = stream.uniform() < 0.3;
    colour.map(|channel| if dark { 0.15 * channel } else { channel })
}

/// Hue (in turns, any real number), saturation and value to RGB.
fn hsv(hue: f64, saturation: f64, value: f64) -> Rgb {
    let sector = (hue - hue.floor()) * 6.0;
    [5.0, 3.0, 1.0].map(|shift: f64| {
        let k = (shift + sector) % 6.0;
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

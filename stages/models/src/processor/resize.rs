//! From an image of any size to the size that the vision tower takes.

use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::RgbImage;
use rayon::prelude::*;

/// Whose rule for an image's new size. They differ for thin images only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SmartResize {
    /// transformers' image processor.
    #[default]
    Transformers,
    /// qwen_vl_utils 0.0.14, as ms-swift's loader calls it: no side below `factor` before areas are compared.
    QwenVlUtils,
}

/// How pixels are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The cubic of Keys (1981) with a = -0.5.
    Bicubic,
    /// The sinc that is windowed by its own main lobe, three wide.
    Lanczos,
}

impl Filter {
    /// Pixels to either side that have a weight, where nothing is reduced.
    fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bicubic => bicubic(x),
            Self::Lanczos => lanczos(x),
        }
    }
}

/// Whose arithmetic. Both filters are antialiased, the cubic has a = -0.5 and are antialiased; they round their weights differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resampling {
    /// Pillow before version 13: weights of 22 fractional bits.
    #[default]
    Pillow,
    /// torchvision's kernel for bytes: weights of 16 bits with their sign.
    Torchvision,
}

/// The longest side divided by the shortest that an image may have.
const MAX_RATIO: f64 = 200.0;
const CHANNELS: usize = 3;

/// The height and width to resize to: multiples of `factor` near the image's own, the area from `min_pixels` to
/// `max_pixels` where that is possible, the aspect ratio kept as far as that allows. Halves round to even.
///
/// # Errors
/// [`VlmError::Config`]: a side of no pixels, an aspect ratio above 200, or (by [`SmartResize::QwenVlUtils`])
/// a side that would shrink to nothing.
pub fn smart_resize(
    height: usize,
    width: usize,
    factor: usize,
    min_pixels: usize,
    max_pixels: usize,
    rule: SmartResize,
) -> Result<(usize, usize), VlmError> {
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    if height == 0 || width == 0 || factor == 0 {
        return Err(VlmError::Config(format!(
            "an image of {width} x {height} pixels cannot be resized to multiples of {factor}"
        )));
    }
    let ratio = h.max(w) / h.min(w);
    if ratio > MAX_RATIO {
        return Err(VlmError::Config(format!(
            "an image of {width} x {height} pixels: the longer side is {ratio:.1} times the shorter, \
             and {MAX_RATIO} is the most that the model takes"
        )));
    }
    let least = match rule {
        SmartResize::Transformers => 0.0,
        SmartResize::QwenVlUtils => f,
    };
    let mut size = [h, w].map(|side| ((side / f).round_ties_even() * f).max(least));
    let area = size[0] * size[1];
    if area > max_pixels as f64 {
        let beta = (h * w / max_pixels as f64).sqrt();
        let least = match rule {
            SmartResize::Transformers => f,
            SmartResize::QwenVlUtils => 0.0,
        };
        size = [h, w].map(|side| ((side / beta / f).floor() * f).max(least));
    } else if area < min_pixels as f64 {
        let beta = (min_pixels as f64 / (h * w)).sqrt();
        size = [h, w].map(|side| (side * beta / f).ceil() * f);
    }
    let [new_height, new_width] = size.map(|side| side as usize);
    if new_height == 0 || new_width == 0 {
        return Err(VlmError::Config(format!(
            "an image of {width} x {height} pixels would shrink to {new_width} x {new_height}; \
             the limit of {max_pixels} pixels is too low for so thin an image"
        )));
    }
    Ok((new_height, new_width))
}

/// The image at `height` x `width` pixels: a horizontal pass, rounded to bytes, then a vertical one. A pass that
/// changes nothing is left out.
///
/// # Errors
/// [`VlmError::Config`] where the image's sizes and pixels do not fit together, or a new side is 0.
pub fn resize(
    image: &RgbImage,
    height: usize,
    width: usize,
    filter: Filter,
    resampling: Resampling,
) -> Result<RgbImage, VlmError> {
    image.validate()?;
    if height == 0 || width == 0 {
        return Err(VlmError::Config(format!(
            "an image cannot be resized to {width} x {height} pixels"
        )));
    }
    let (old_height, old_width) = (image.height as usize, image.width as usize);
    let mut pixels = image.pixels.clone();
    if width != old_width {
        pixels = horizontal(
            &pixels,
            old_width,
            &Weights::new(old_width, width, filter, resampling),
        )
        .into();
    }
    if height != old_height {
        pixels = vertical(
            &pixels,
            width,
            &Weights::new(old_height, height, filter, resampling),
        )
        .into();
    }
    Ok(RgbImage {
        width: width as u32,
        height: height as u32,
        pixels,
    })
}

/// For each output pixel of a row or column: the first input pixel and the fixed-point weights from there on.
struct Weights {
    spans: Vec<(usize, std::ops::Range<usize>)>,
    values: Vec<i32>,
    /// Fractional bits of the weights.
    bits: u32,
}

impl Weights {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc` (`Resample.c`), PyTorch's
    /// `compute_index_ranges_int16_weights` (`UpSampleKernel.cpp`): the same weights, scaled differently.
    fn new(from: usize, to: usize, filter: Filter, resampling: Resampling) -> Self {
        let scale = from as f64 / to as f64;
        let widening = scale.max(1.0);
        let support = filter.support() * widening;
        let shrink = 1.0 / widening;
        let mut spans = Vec::with_capacity(to);
        let mut exact: Vec<f64> = Vec::new();
        for output in 0..to {
            let center = (output as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let start = exact.len();
            exact.extend((first..end).map(|x| filter.weight((x as f64 - center + 0.5) * shrink)));
            let sum: f64 = exact[start..].iter().sum();
            if sum != 0.0 {
                exact[start..].iter_mut().for_each(|weight| *weight /= sum);
            }
            spans.push((first, start..exact.len()));
        }
        let bits = match resampling {
            Resampling::Pillow => 22,
            Resampling::Torchvision => sixteen_bits(&exact),
        };
        let one = f64::from(1 << bits);
        // Rounded away from zero at halves, as both libraries cut off `0.5 + x` and `-0.5 + x`.
        let fixed = |weight: &f64| (weight * one + 0.5_f64.copysign(*weight)) as i32;
        Self {
            spans,
            values: exact.iter().map(fixed).collect(),
            bits,
        }
    }

    fn spans(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.spans
            .iter()
            .map(|(first, range)| (*first, &self.values[range.clone()]))
    }

    fn span(&self, output: usize) -> (usize, &[i32]) {
        let (first, range) = &self.spans[output];
        (*first, &self.values[range.clone()])
    }

    fn byte(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }

    /// One half, so that cutting off rounds.
    fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }
}

/// The cubic of Keys (1981) with a = -0.5, in Pillow's order of operations.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Lanczos's kernel of three lobes, in Pillow's order of operations.
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| match x == 0.0 {
        true => 1.0,
        false => {
            let x = x * std::f64::consts::PI;
            libm::sin(x) / x
        }
    };
    match (-3.0..3.0).contains(&x) {
        true => sinc(x) * sinc(x / 3.0),
        false => 0.0,
    }
}

/// The most fractional bits (at most 22) with which the largest weight fits 16 bits with its sign.
fn sixteen_bits(weights: &[f64]) -> u32 {
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let fits = |bits: u32| ((0.5 + largest * f64::from(1 << bits)) as i32) < 1 << 15;
    (1..=22).take_while(|&bits| fits(bits)).last().unwrap_or(1)
}

/// Rows of a parallel task: enough that handing it out costs nothing beside it.
const ROWS_PER_TASK: usize = 16;

fn horizontal(pixels: &[u8], old_width: usize, weights: &Weights) -> Vec<u8> {
    let row_bytes = weights.spans.len() * CHANNELS;
    let mut out = vec![0; pixels.len() / (old_width * CHANNELS) * row_bytes];
    out.par_chunks_mut(row_bytes)
        .zip(pixels.par_chunks(old_width * CHANNELS))
        .with_min_len(ROWS_PER_TASK)
        .for_each(|(out, row)| {
            for (out, (first, taps)) in out.chunks_exact_mut(CHANNELS).zip(weights.spans()) {
                let mut sums = [weights.half(); CHANNELS];
                let inputs = row[first * CHANNELS..].chunks_exact(CHANNELS);
                for (input, weight) in inputs.zip(taps) {
                    for (sum, byte) in sums.iter_mut().zip(input) {
                        *sum += i32::from(*byte) * weight;
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = weights.byte(sum);
                }
            }
        });
    out
}

fn vertical(pixels: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    let row_bytes = width * CHANNELS;
    let mut out = vec![0; weights.spans.len() * row_bytes];
    out.par_chunks_mut(row_bytes)
        .enumerate()
        .with_min_len(ROWS_PER_TASK)
        .for_each_init(Vec::new, |sums: &mut Vec<i32>, (y, out)| {
            let (first, taps) = weights.span(y);
            sums.clear();
            sums.resize(row_bytes, weights.half());
            let rows = pixels[first * row_bytes..].chunks_exact(row_bytes);
            for (row, weight) in rows.zip(taps) {
                for (sum, byte) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*byte) * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = weights.byte(*sum);
            }
        });
    out
}

#[cfg(test)]
mod tests {
    use super::{Filter, Resampling, SmartResize, resize, smart_resize};
    use dcsft_vlm::model::RgbImage;

    #[test]
    fn a_plain_image_stays_plain() {
        let image = RgbImage {
            width: 5,
            height: 3,
            pixels: [7, 100, 255].repeat(15).into(),
        };
        for (filter, resampling) in [
            (Filter::Bicubic, Resampling::Pillow),
            (Filter::Bicubic, Resampling::Torchvision),
            (Filter::Lanczos, Resampling::Pillow),
        ] {
            let resized = resize(&image, 28, 56, filter, resampling).unwrap();
            assert_eq!((resized.width, resized.height), (56, 28));
            assert!(
                resized
                    .pixels
                    .chunks_exact(3)
                    .all(|pixel| pixel == [7, 100, 255])
            );
        }
        assert!(resize(&image, 0, 56, Filter::Bicubic, Resampling::Pillow).is_err());
    }

    #[test]
    fn a_thin_image_is_refused() {
        let error = smart_resize(2, 1000, 28, 3136, 50176, SmartResize::Transformers).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an image of 1000 x 2 pixels: the longer side is 500.0 times the shorter, \
             and 200 is the most that the model takes"
        );
    }
}

//! What is known of a set of samples before anything has run.

use std::path::Path;

use dcsft_engine::stage::Prospect;
use dcsft_vlm::memory::{Footprint, Tokens};

use crate::data::{Dataset, Sample, read_samples};

/// Bytes of a sample in memory besides its texts: the record with its further fields, and the index by ID.
const SAMPLE: f64 = 2300.0;
/// Bytes of a question ready to be asked, with its answer's tokens, besides the image.
const QUESTION: f64 = 300.0;
/// Bytes of a question and of an answer where texts are not known.
const UNKNOWN_TEXT: [f64; 2] = [256.0, 64.0];
/// A batch drawn at random is hardly ever more than so many standard deviations above the mean.
const DEVIATIONS: f64 = 3.0;

/// A quantity over the samples of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spread {
    mean: f64,
    deviation: f64,
    max: f64,
}

impl Spread {
    /// The same for every sample.
    pub(crate) fn all(value: f64) -> Self {
        Self {
            mean: value,
            deviation: 0.0,
            max: value,
        }
    }

    /// Over the samples; none without any.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut count, mut sum, mut squares, mut max) = (0.0, 0.0, 0.0, 0.0_f64);
        for value in values {
            count += 1.0;
            sum += value;
            squares += value * value;
            max = max.max(value);
        }
        let mean = sum / count;
        (count > 0.0).then(|| Self {
            mean,
            deviation: libm::sqrt((squares / count - mean * mean).max(0.0)),
            max,
        })
    }

    /// Mean over `count` samples drawn at random, at its largest.
    fn largest_mean(&self, count: f64) -> f64 {
        let above = DEVIATIONS * self.deviation / libm::sqrt(count.max(1.0));
        (self.mean + above).min(self.max)
    }
}

/// What is known of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct DataFacts {
    /// How many samples there are at most.
    pub(crate) samples: Option<u64>,
    /// Pixels of an image, as its file has them.
    pub(crate) pixels: Option<Spread>,
    /// Bytes of a question.
    pub(crate) question: Option<Spread>,
    /// Bytes of a right answer.
    pub(crate) answer: Option<Spread>,
}

impl DataFacts {
    /// Of the input `data`.
    pub(crate) fn of(prospect: &Prospect) -> Self {
        prospect.input("data").copied().unwrap_or_default()
    }

    /// Of an artifact in the cache; none where it cannot be read.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        let samples = read_samples(dir).ok()?;
        let over = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of));
        Some(Self {
            samples: Some(samples.len() as u64),
            pixels: over(|sample| {
                let pixels = |image: &crate::data::ImageEntry| {
                    f64::from(image.width) * f64::from(image.height)
                };
                sample.images.iter().map(pixels).sum()
            }),
            question: over(|sample| sample.prompt.len() as f64),
            answer: over(|sample| sample.answer.len() as f64),
        })
    }

    /// The same, of a subset in the cache.
    pub(crate) fn subset(self, dir: Option<&Path>) -> Self {
        let info = dir.and_then(|dir| Dataset::info_of(dir).ok());
        Self {
            samples: info.map(|info| info.count as u64).or(self.samples),
            ..self
        }
    }

    /// `most`, or all samples where there are fewer.
    pub(super) fn samples(&self, most: f64) -> f64 {
        self.samples
            .map_or(most, |samples| most.min(samples as f64))
    }

    /// Tokens of a sample, on average over the largest batch of `count` samples to be expected.
    pub(super) fn tokens(&self, model: &dyn Footprint, count: f64) -> Tokens {
        let mean = |spread: Option<Spread>, unknown: f64| {
            spread.map_or(unknown, |spread| spread.largest_mean(count))
        };
        model.tokens(
            mean(self.pixels, model.largest_image()),
            mean(self.question, UNKNOWN_TEXT[0]),
            mean(self.answer, UNKNOWN_TEXT[1]),
        )
    }

    /// Bytes of a set whose questions are all in memory; their images as the model sees them, or as they are, as far as
    /// training keeps them.
    pub(super) fn kept(&self, model: &dyn Footprint, originals: bool) -> f64 {
        let count = self.samples.unwrap_or(0) as f64;
        let image = match originals {
            true => 3.0 * self.mean_pixels(model),
            false => model.seen_image(&self.tokens(model, f64::INFINITY)),
        };
        let images = (count * image).min(crate::training::KEPT_BYTES as f64);
        count * (SAMPLE + QUESTION + 2.0 * self.texts()) + images
    }

    /// Bytes of a set of which a chunk of questions is in memory, their images as they are.
    pub(super) fn asked(&self, model: &dyn Footprint, chunk: f64) -> f64 {
        let count = self.samples.unwrap_or(0) as f64;
        count * (SAMPLE + self.texts()) + chunk * (QUESTION + 3.0 * self.mean_pixels(model))
    }

    fn mean_pixels(&self, model: &dyn Footprint) -> f64 {
        self.pixels
            .map_or(model.largest_image(), |pixels| pixels.mean)
    }

    fn texts(&self) -> f64 {
        let mean = |spread: Option<Spread>, unknown| spread.map_or(unknown, |spread| spread.mean);
        mean(self.question, UNKNOWN_TEXT[0]) + mean(self.answer, UNKNOWN_TEXT[1])
    }
}

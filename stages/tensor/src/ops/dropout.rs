//! Inputs that training leaves out at random.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use crate::host::send;
use crate::rng::StreamKey;

/// One draw of dropout: inputs set to zero, the others scaled up.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// Probability with which an input is dropped.
    pub probability: f64,
    /// Flat indices (`row * in + column`) of the dropped inputs, ascending.
    pub dropped: Arc<[u32]>,
}

impl Dropout {
    /// Draws which of a layer's inputs are dropped, each with `probability`.
    ///
    /// `rows` lists, in the order of the batch, each sample's ID and how many rows of the input are its own; what is
    /// drawn for a sample depends on `key`, the layer and the sample alone. The gaps between dropped inputs are
    /// geometric, so that a draw is spent on each dropped input and none on the others.
    pub fn draw<'a>(
        key: &StreamKey,
        layer: &str,
        probability: f64,
        rows: impl Iterator<Item = (&'a str, usize)>,
        width: usize,
    ) -> Self {
        let key = key.clone().text(layer);
        let log_keep = libm::log1p(-probability);
        let of_sample = |(sample, inputs): (&str, Range<u64>), dropped: &mut Vec<u32>| {
            let mut stream = key.clone().text(sample).stream();
            let mut next = inputs.start;
            loop {
                // 1 - u is in (0, 1], so the gap is finite; the cast saturates.
                next = next.saturating_add((libm::log(1.0 - stream.uniform()) / log_keep) as u64);
                if next >= inputs.end {
                    break;
                }
                dropped.push(next as u32);
                next += 1;
            }
        };
        let mut end = 0u64;
        let samples: Vec<(&str, Range<u64>)> = rows
            .map(|(sample, count)| {
                let start = end;
                end += (count * width) as u64;
                (sample, start..end)
            })
            .collect();
        let mut dropped = Vec::new();
        if end as f64 * probability < SHARED_OUT {
            for sample in samples {
                of_sample(sample, &mut dropped);
            }
        } else {
            let each = samples.into_par_iter().map(|sample| {
                let mut dropped = Vec::new();
                of_sample(sample, &mut dropped);
                dropped
            });
            dropped = each.collect::<Vec<_>>().concat();
        }
        Self {
            probability,
            dropped: dropped.into(),
        }
    }

    /// Brings what is dropped of `[rows, in]` inputs to a device, a bit each.
    pub(super) fn send(&self, shape: [usize; 2], device: &Device) -> Kept {
        let words = self.kept_bits(shape[0] * shape[1]);
        let count = words.len();
        let words = TensorData::new(words, [count, 1]);
        Kept {
            words: send(words, device),
            shape,
            factor: 1.0 / (1.0 - self.probability),
        }
    }

    /// Of `inputs` inputs a bit each, 1 for those that stay, the lowest bit of a word first.
    fn kept_bits(&self, inputs: usize) -> Vec<i32> {
        let mut words = vec![-1i32; inputs.div_ceil(32)];
        for &index in self.dropped.iter() {
            words[index as usize / 32] &= !(1 << (index % 32));
        }
        words
    }
}

/// Which inputs stay, on a device.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// 32 inputs each.
    words: Tensor<2, Int>,
    shape: [usize; 2],
    /// What inputs that stay are multiplied with.
    factor: f64,
}

impl Kept {
    /// What each input is multiplied with.
    pub(super) fn factors(&self, dtype: DType) -> Tensor<2> {
        let [rows, width] = self.shape;
        let places = Tensor::<1, Int>::arange(0..32, &self.words.device()).reshape([1, 32]);
        let bits = self
            .words
            .clone()
            .bitwise_right_shift(places)
            .bitwise_and_scalar(1)
            .reshape([self.words.dims()[0] * 32])
            .narrow(0, 0, rows * width)
            .reshape([rows, width]);
        (bits.float() * self.factor).cast(dtype)
    }
}

/// Draws from which on the samples are worth sharing out among threads.
const SHARED_OUT: f64 = 65_536.0;

#[cfg(test)]
mod tests {
    use super::Dropout;
    use crate::rng::StreamKey;

    #[test]
    fn inputs_are_dropped_at_the_asked_rate_and_evenly() {
        let samples: Vec<String> = (0..100).map(|index| format!("sample {index}")).collect();
        let rows = samples.iter().map(|id| (id.as_str(), 20));
        let dropout = Dropout::draw(&StreamKey::new("test", 0), "layer", 0.05, rows, 48);
        let total = 100 * 20 * 48;
        let rate = dropout.dropped.len() as f64 / f64::from(total);
        assert!((rate - 0.05).abs() < 0.003, "{rate}");
        assert!(dropout.dropped.windows(2).all(|pair| pair[0] < pair[1]));
        let first_of_sample = (0..100u32)
            .filter(|s| dropout.dropped.contains(&(s * 20 * 48)))
            .count();
        assert!((1..14).contains(&first_of_sample), "{first_of_sample}");
    }

    #[test]
    fn a_samples_draw_does_not_depend_on_the_rest_of_the_batch() {
        let key = StreamKey::new("test", 0);
        let alone = Dropout::draw(&key, "layer", 0.2, [("b", 7)].into_iter(), 10);
        let second = Dropout::draw(&key, "layer", 0.2, [("a", 3), ("b", 7)].into_iter(), 10);
        let moved: Vec<u32> = second
            .dropped
            .iter()
            .filter(|&&i| i >= 30)
            .map(|i| i - 30)
            .collect();
        assert_eq!(alone.dropped.to_vec(), moved);
    }
}

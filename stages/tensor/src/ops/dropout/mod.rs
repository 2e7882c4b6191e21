//! Inputs that training leaves out at random.

mod bits;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod device;
mod gaps;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod kernel;
mod keys;
mod owner;
mod samples;
#[cfg(any(feature = "cuda", feature = "wgpu", test))]
mod thresholds;

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use bits::Bits;
use gaps::log_keep;
pub use keys::DropoutKeys;
use samples::Drawn;

/// One draw of dropout: inputs set to zero, the others scaled up.
#[derive(Clone, Debug)]
pub struct Dropout {
    probability: f64,
    dropped: Dropped,
}

/// Which inputs are dropped.
#[derive(Clone, Debug)]
enum Dropped {
    /// These; ascending.
    Given(Arc<[u32]>),
    /// Those that are drawn for each sample's inputs.
    Drawn(Drawn),
}

impl Dropout {
    /// Sets the inputs with these flat indices (`row * in + column`), which ascend, to zero.
    pub fn of(probability: f64, dropped: impl Into<Arc<[u32]>>) -> Self {
        Self {
            probability,
            dropped: Dropped::Given(dropped.into()),
        }
    }

    /// Probability with which an input is dropped.
    pub fn probability(&self) -> f64 {
        self.probability
    }

    /// Flat indices (`row * in + column`) of the dropped inputs, ascending.
    pub fn dropped(&self) -> Arc<[u32]> {
        let owners = match &self.dropped {
            Dropped::Given(dropped) => return dropped.clone(),
            Dropped::Drawn(drawn) => drawn.owners(),
        };
        let log_keep = log_keep(self.probability);
        let end = owners.last().map_or(0, |owner| owner.inputs.end);
        let mut dropped = Vec::new();
        if end as f64 * self.probability < SHARED_OUT {
            for owner in &owners {
                owner.drop(log_keep, &mut dropped);
            }
        } else {
            let each = owners.par_iter().map(|owner| {
                let mut dropped = Vec::new();
                owner.drop(log_keep, &mut dropped);
                dropped
            });
            dropped = each.collect::<Vec<_>>().concat();
        }
        dropped.into()
    }

    /// What it does to inputs `[rows, in]` on their device.
    pub(super) fn on(&self, shape: [usize; 2], device: &Device) -> Mask {
        Mask {
            source: self.source(shape[0] * shape[1], device),
            factor: 1.0 / (1.0 - self.probability),
        }
    }

    fn source(&self, inputs: usize, device: &Device) -> Source {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if let Dropped::Drawn(drawn) = &self.dropped
            && device.clone().inner() != Device::flex()
            && let Some(keys) = device::Keys::send(drawn, self.probability, inputs, device)
        {
            return Source::Keys(keys);
        }
        Source::Bits(Bits::send(&self.dropped(), inputs, device))
    }
}

/// Dropout of some inputs, on their device.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    source: Source,
    /// What inputs that stay are multiplied with.
    factor: f64,
}

#[derive(Clone, Debug)]
#[cfg_attr(
    any(feature = "cuda", feature = "wgpu"),
    expect(clippy::large_enum_variant, reason = "there are as many as layers")
)]
enum Source {
    /// What was drawn.
    Bits(Bits),
    /// What it is drawn from, each time that it is asked for.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    Keys(device::Keys),
}

impl Mask {
    /// As it is applied to inputs.
    pub(super) fn drawn(&self) -> DrawnMask {
        let bits = match &self.source {
            Source::Bits(bits) => bits.clone(),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            Source::Keys(keys) => keys.draw(),
        };
        let factor = self.factor;
        DrawnMask { bits, factor }
    }
}

/// Which inputs stay, and what they are multiplied with.
pub(super) struct DrawnMask {
    bits: Bits,
    factor: f64,
}

impl DrawnMask {
    /// What it leaves of the inputs.
    pub(super) fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !x.is_autodiff() && x.device() != Device::flex() {
            return device::apply(&x, &self.bits, self.factor);
        }
        let factors = self.bits.factors(x.dims(), self.factor, x.dtype());
        x * factors
    }
}

/// Draws from which on the samples are worth sharing out among threads.
const SHARED_OUT: f64 = 65_536.0;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Dropout, DropoutKeys};
    use crate::rng::StreamKey;

    fn draw(probability: f64, ids: &[Arc<str>], counts: &[usize], width: usize) -> Dropout {
        let keys = DropoutKeys::new(&StreamKey::new("test", 0), ["layer".into()]);
        keys.draw("layer", probability, ids, counts, width)
    }

    #[test]
    fn inputs_are_dropped_at_the_asked_rate_and_evenly() {
        let samples = (0..100).map(|index| format!("sample {index}").into());
        let samples: Vec<Arc<str>> = samples.collect();
        let dropout = draw(0.05, &samples, &[20; 100], 48);
        let total = 100 * 20 * 48;
        let rate = dropout.dropped().len() as f64 / f64::from(total);
        assert!((rate - 0.05).abs() < 0.003, "{rate}");
        assert!(dropout.dropped().windows(2).all(|pair| pair[0] < pair[1]));
        let first_of_sample = (0..100u32)
            .filter(|s| dropout.dropped().contains(&(s * 20 * 48)))
            .count();
        assert!((1..14).contains(&first_of_sample), "{first_of_sample}");
    }

    #[test]
    fn a_samples_draw_does_not_depend_on_the_rest_of_the_batch() {
        let alone = draw(0.2, &["b".into()], &[7], 10);
        let second = draw(0.2, &["a".into(), "b".into()], &[3, 7], 10);
        let moved: Vec<u32> = second
            .dropped()
            .iter()
            .filter(|&&i| i >= 30)
            .map(|i| i - 30)
            .collect();
        assert_eq!(alone.dropped().to_vec(), moved);
    }
}

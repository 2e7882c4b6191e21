//! Which samples each step takes: a pure function of (number of samples, seed, step), so that a resumed run
//! needs no state to go on with the same data.

use dcsft_tensor::rng::StreamKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens at the end of an epoch to samples that do not fill a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LastBatch {
    /// The batch is filled from the next epoch: all batches are full and every sample is seen equally often.
    #[default]
    Fill,
    /// The batch is short, as with Hugging Face's Trainer.
    Short,
    /// The samples are left out of this epoch (`dataloader_drop_last`).
    Drop,
}

/// The order in which a run sees its samples: each epoch is a shuffle of its own, keyed by (seed, epoch).
#[derive(Clone, Debug)]
pub struct Order {
    samples: usize,
    batch: usize,
    last: LastBatch,
    seed: u64,
    epoch: Option<(usize, Vec<usize>)>,
}

impl Order {
    /// The order of `samples` samples in steps of `batch`; both must be at least 1, and with
    /// [`LastBatch::Drop`] there must be a full batch.
    pub fn new(samples: usize, batch: usize, last: LastBatch, seed: u64) -> Self {
        Self {
            samples,
            batch,
            last,
            seed,
            epoch: None,
        }
    }

    /// Steps of `epochs` passes over the data; a started step counts.
    pub fn steps(&self, epochs: f64) -> usize {
        (epochs * self.steps_per_epoch()).ceil() as usize
    }

    /// Passes over the data that `steps` steps make.
    pub fn epochs(&self, steps: usize) -> f64 {
        steps as f64 / self.steps_per_epoch()
    }

    fn steps_per_epoch(&self) -> f64 {
        match self.last {
            LastBatch::Fill => self.samples as f64 / self.batch as f64,
            LastBatch::Short => self.samples.div_ceil(self.batch) as f64,
            LastBatch::Drop => (self.samples / self.batch) as f64,
        }
    }

    /// Indices of the samples of `step`, counted from 0.
    pub fn batch(&mut self, step: usize) -> Vec<usize> {
        if self.last == LastBatch::Fill {
            let first = step * self.batch;
            return (first..first + self.batch)
                .map(|position| self.sample(position))
                .collect();
        }
        let per_epoch = self.steps_per_epoch() as usize;
        let start = (step / per_epoch) * self.samples;
        let from = (step % per_epoch) * self.batch;
        let to = (from + self.batch).min(self.samples);
        (from..to)
            .map(|offset| self.sample(start + offset))
            .collect()
    }

    /// The sample at a position of the endless row of shuffled epochs.
    fn sample(&mut self, position: usize) -> usize {
        let epoch = position / self.samples;
        let indices = match self.epoch.take() {
            Some((known, indices)) if known == epoch => indices,
            _ => self.permutation(epoch),
        };
        let sample = indices[position % self.samples];
        self.epoch = Some((epoch, indices));
        sample
    }

    fn permutation(&self, epoch: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..self.samples).collect();
        StreamKey::new("data order", self.seed)
            .number(epoch as u64)
            .stream()
            .shuffle(&mut indices);
        indices
    }
}

#[cfg(test)]
mod tests {
    use super::{LastBatch, Order};

    fn epoch_counts(order: &mut Order, steps: std::ops::Range<usize>) -> Vec<usize> {
        let mut counts = vec![0; 10];
        for index in steps.flat_map(|step| order.batch(step)) {
            counts[index] += 1;
        }
        counts
    }

    #[test]
    fn every_epoch_sees_every_sample_once_in_another_order() {
        let mut order = Order::new(10, 5, LastBatch::Fill, 1);
        assert_eq!(epoch_counts(&mut order, 0..2), [1; 10]);
        assert_eq!(epoch_counts(&mut order, 2..4), [1; 10]);
        let epochs = [
            [order.batch(0), order.batch(1)],
            [order.batch(2), order.batch(3)],
        ];
        assert_ne!(epochs[0], epochs[1]);
    }

    #[test]
    fn a_step_depends_on_nothing_but_its_number_and_the_seed() {
        for last in [LastBatch::Fill, LastBatch::Short, LastBatch::Drop] {
            let mut straight = Order::new(10, 4, last, 7);
            let in_order: Vec<_> = (0..20).map(|step| straight.batch(step)).collect();
            let mut jumping = Order::new(10, 4, last, 7);
            for step in [19, 0, 7, 3, 19, 12] {
                assert_eq!(jumping.batch(step), in_order[step]);
            }
            let mut other = Order::new(10, 4, last, 8);
            assert_ne!(
                (0..20).map(|step| other.batch(step)).collect::<Vec<_>>(),
                in_order
            );
        }
    }

    #[test]
    fn the_end_of_an_epoch_is_filled_short_or_dropped() {
        let sizes = |last| {
            let mut order = Order::new(10, 4, last, 0);
            (0..6)
                .map(|step| order.batch(step).len())
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(LastBatch::Fill), [4; 6]);
        assert_eq!(sizes(LastBatch::Short), [4, 4, 2, 4, 4, 2]);
        assert_eq!(sizes(LastBatch::Drop), [4; 6]);
        assert_eq!(
            epoch_counts(&mut Order::new(10, 4, LastBatch::Fill, 0), 0..5),
            [2; 10]
        );
        assert_eq!(
            epoch_counts(&mut Order::new(10, 4, LastBatch::Short, 0), 0..3),
            [1; 10]
        );
        assert_eq!(
            epoch_counts(&mut Order::new(10, 4, LastBatch::Drop, 0), 0..2)
                .iter()
                .sum::<usize>(),
            8
        );
    }

    #[test]
    fn epochs_count_the_steps_they_take() {
        let steps = |last, epochs| Order::new(10, 4, last, 0).steps(epochs);
        assert_eq!(
            [1.0, 2.0, 0.5].map(|e| steps(LastBatch::Fill, e)),
            [3, 5, 2]
        );
        assert_eq!([1.0, 2.0].map(|e| steps(LastBatch::Short, e)), [3, 6]);
        assert_eq!([1.0, 2.0].map(|e| steps(LastBatch::Drop, e)), [2, 4]);
    }

    #[test]
    fn a_batch_may_be_larger_than_the_data() {
        let mut order = Order::new(3, 8, LastBatch::Fill, 0);
        let batch = order.batch(0);
        assert_eq!(batch.len(), 8);
        assert!((0..3).all(|sample| batch.iter().filter(|&&index| index == sample).count() >= 2));
        assert_eq!(Order::new(3, 8, LastBatch::Short, 0).batch(5).len(), 3);
    }
}

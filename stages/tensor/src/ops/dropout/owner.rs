//! Whose inputs dropout draws for.

use std::ops::Range;

use super::gaps::gap;
use crate::rng::Stream;

/// A sample's inputs.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// The key of the stream that decides about them.
    pub(super) seed: [u8; 32],
    /// Flat indices.
    pub(super) inputs: Range<u64>,
}

impl Owner {
    /// The dropped ones among them. The gaps between them are geometric, so that a draw is spent on each dropped input and
    /// none on the others.
    pub(super) fn drop(&self, log_keep: f64, dropped: &mut Vec<u32>) {
        let mut stream = Stream::of_seed(self.seed);
        let mut next = self.inputs.start;
        loop {
            next = next.saturating_add(gap(stream.uniform(), log_keep));
            if next >= self.inputs.end {
                break;
            }
            dropped.push(next as u32);
            next += 1;
        }
    }
}

//! A part of a stage's samples that an attempt of its own computes.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One of the equal parts that a stage's samples are cut into: `2/4` is the second quarter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Shard {
    /// Which, from 1.
    pub index: u32,
    /// Of how many.
    pub of: u32,
}

impl Shard {
    /// Its rows of `count`. Those of all shards are all rows, each once. Where two meet is a multiple of `grain` rows;
    /// with a grain of 1 no shard has more than one row more than another. A shard may have none.
    pub fn rows(self, count: usize, grain: usize) -> Range<usize> {
        let grain = grain.max(1);
        let grains = count.div_ceil(grain) as u128;
        let cut = |index: u32| {
            let grains = grains * u128::from(index) / u128::from(self.of.max(1));
            // No more than there are rows: it fits.
            usize::try_from(grains).unwrap_or(usize::MAX)
        };
        let row = |index: u32| cut(index).saturating_mul(grain).min(count);
        row(self.index.saturating_sub(1))..row(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(of: u32, count: usize, grain: usize) -> Vec<Range<usize>> {
        let shards = (1..=of).map(|index| Shard { index, of });
        shards.map(|shard| shard.rows(count, grain)).collect()
    }

    #[test]
    fn shards_have_all_rows_once_and_alike_many() {
        assert_eq!(cut(3, 10, 1), [0..3, 3..6, 6..10]);
        assert_eq!(cut(4, 2, 1), [0..0, 0..1, 1..1, 1..2]);
        assert_eq!(cut(2, 0, 1), [0..0, 0..0]);
        assert_eq!(cut(2, 5, 1), [0..2, 2..5]);
    }

    #[test]
    fn shards_meet_between_whole_grains() {
        assert_eq!(cut(2, 10, 4), [0..4, 4..10]);
        assert_eq!(cut(3, 10, 4), [0..4, 4..8, 8..10]);
        assert_eq!(cut(2, 10, 64), [0..0, 0..10]);
    }
}

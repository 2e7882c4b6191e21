//! Scores of sequences that continue prefixes.

use burn::tensor::{Int, Tensor};

/// Of each query a number for each row: scores, or the weights that they become.
pub(super) struct Scores {
    /// Of the prefixes' rows, `[prefixes, key heads, sequences of a prefix * group, longest]`.
    pub(super) prefix: Tensor<4>,
    /// Of the sequences' own, `[sequences, key heads, group, room]`.
    pub(super) own: Tensor<4>,
}

/// Which rows are there.
pub(super) struct Seen<'a> {
    /// Rows of each prefix, `[prefixes]`.
    pub(super) lengths: &'a Tensor<1, Int>,
    /// Rows of each sequence, `[sequences]`.
    pub(super) own: &'a Tensor<1, Int>,
    /// Sequences of a prefix.
    pub(super) each: usize,
    /// What scores are multiplied with.
    pub(super) scale: f64,
}

//! What attention is given, and what it gives.

use std::ops::Range;

use burn::tensor::{FloatDType, Tensor};

use crate::ops::Heads;

/// How much memory attention takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Scores of a block, of all heads together, 4 bytes each; a few copies of them are there for a moment. One query of
    /// one group is worked on at least.
    pub scores: usize,
    /// Pairs of a query and a key, a head, that may be padding wherever that saves a launch of every kernel.
    pub padding: usize,
}

impl Budget {
    /// 128 MiB a copy of a block's scores.
    pub const DEFAULT: Self = Self {
        scores: 1 << 25,
        padding: 1 << 18,
    };
}

/// How packed columns are cut into heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) heads: Heads,
    /// Width of a head.
    pub(super) width: usize,
}

impl Cut {
    /// Queries of each head of keys.
    pub(super) fn group(self) -> usize {
        self.heads.queries / self.heads.keys
    }

    /// What scores are multiplied with.
    pub(super) fn scale(self) -> f64 {
        1.0 / (self.width as f64).sqrt()
    }

    /// The columns of queries, of keys and of values.
    pub(super) fn columns(self) -> [Range<usize>; 3] {
        let [queries, keys] = [self.heads.queries, self.heads.keys].map(|heads| heads * self.width);
        [
            0..queries,
            queries..queries + keys,
            queries + keys..queries + 2 * keys,
        ]
    }
}

/// Queries, keys and values of packed rows.
pub(super) fn parts(qkv: &Tensor<2>, cut: Cut) -> [Tensor<2>; 3] {
    let rows = qkv.dims()[0];
    cut.columns()
        .map(|columns| qkv.clone().slice([0..rows, columns]))
}

/// What attention is computed from: the queries that are asked for, in that order, and keys and values of all packed rows.
pub(super) struct Inputs {
    pub(super) queries: Tensor<2>,
    pub(super) keys: Tensor<2>,
    pub(super) values: Tensor<2>,
}

/// What queries get.
#[derive(Clone, Debug)]
pub(super) struct Mixed {
    /// `[queries, heads * width]`.
    pub(super) out: Tensor<2>,
    /// Log of the sum of the weights, `[queries, heads]`, in 32 bits.
    pub(super) log_sum: Tensor<2>,
}

impl Mixed {
    /// Together with what the same queries get from other keys.
    pub(super) fn and(self, other: Self, cut: Cut) -> Self {
        let dtype = self.out.dtype();
        let most = self.log_sum.clone().max_pair(other.log_sum.clone());
        let sum = (self.log_sum.clone() - most.clone()).exp()
            + (other.log_sum.clone() - most.clone()).exp();
        let log_sum = most + sum.log();
        let share = |mixed: Self| {
            let [rows, columns] = mixed.out.dims();
            let share = (mixed.log_sum - log_sum.clone()).exp();
            let out = mixed.out.cast(FloatDType::F32);
            let out = out.reshape([rows, cut.heads.queries, cut.width])
                * share.reshape([rows, cut.heads.queries, 1]);
            out.reshape([rows, columns])
        };
        Self {
            out: (share(self) + share(other)).cast(dtype),
            log_sum,
        }
    }
}

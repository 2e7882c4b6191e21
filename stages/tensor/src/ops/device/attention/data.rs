//! What attention is given, and what it gives.

use burn::tensor::{FloatDType, Int, Tensor};

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::host::on_host;
use crate::ops::Heads;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::ops::device::kernels;

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

/// Columns of packed rows, in heads that belong to heads of keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// The first of them.
    pub(super) first: usize,
    /// Heads of keys.
    pub(super) heads: usize,
    /// Heads that belong to each of those.
    pub(super) members: usize,
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

    /// Columns of all queries.
    pub(super) fn columns(self) -> usize {
        self.heads.queries * self.width
    }

    /// The queries of packed rows, and what belongs to each of them.
    pub(super) fn queries(self) -> Columns {
        Columns {
            first: 0,
            heads: self.heads.keys,
            members: self.group(),
            width: self.width,
        }
    }

    /// One number for each query.
    pub(super) fn numbers(self) -> Columns {
        Columns {
            width: 1,
            ..self.queries()
        }
    }

    pub(super) fn keys(self) -> Columns {
        Columns {
            first: self.columns(),
            members: 1,
            ..self.queries()
        }
    }

    pub(super) fn values(self) -> Columns {
        Columns {
            first: self.columns() + self.heads.keys * self.width,
            ..self.keys()
        }
    }
}

/// How attention is computed.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    /// The layout's table.
    pub(super) table: &'a Tensor<1, Int>,
    pub(super) cut: Cut,
    pub(super) budget: Budget,
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
    pub(super) fn and(self, other: &Self, cut: Cut) -> Self {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !on_host(&self.out) {
            let [out, log_sum] =
                kernels::mixed([self.out, self.log_sum], [&other.out, &other.log_sum]);
            return Self { out, log_sum };
        }
        let dtype = self.out.dtype();
        let most = self.log_sum.clone().max_pair(other.log_sum.clone());
        let sum = (self.log_sum.clone() - most.clone()).exp()
            + (other.log_sum.clone() - most.clone()).exp();
        let log_sum = most + sum.log();
        let share = |mixed: &Self| {
            let [rows, columns] = mixed.out.dims();
            let share = (mixed.log_sum.clone() - log_sum.clone()).exp();
            let out = mixed.out.clone().cast(FloatDType::F32);
            let out = out.reshape([rows, cut.heads.queries, cut.width])
                * share.reshape([rows, cut.heads.queries, 1]);
            out.reshape([rows, columns])
        };
        Self {
            out: (share(&self) + share(other)).cast(dtype),
            log_sum,
        }
    }

    /// Of each query and head the product of what it got with the gradient of that, `[queries, heads]` in 32 bits.
    pub(super) fn along(&self, grad: &Tensor<2>, cut: Cut) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !on_host(grad) {
            return kernels::along(grad, &self.out, cut.heads.queries);
        }
        let rows = grad.dims()[0];
        let heads = cut.heads.queries;
        let product = grad.clone().cast(FloatDType::F32) * self.out.clone().cast(FloatDType::F32);
        let product = product.reshape([rows, heads, cut.width]).sum_dim(2);
        product.reshape([rows, heads])
    }
}

//! Attention on devices other than the CPU, in memory that grows with the rows and not with their square.
//!
//! Scores are computed in blocks that fit a budget, and thrown away. What is kept for the gradient is the result and, of
//! each row and head, the log of the sum of its weights: from that every weight is had again (Dao et al. 2022,
//! FlashAttention). Rows that look at a prefix and at rows of their own look at each apart; the two results are put
//! together by those sums, and a prefix is there once for all that share it.

mod block;
mod gradient;
mod layout;

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{FloatDType, Tensor};

use super::typed;
use crate::ops::graph::record_rule;
use crate::ops::{Heads, Spans, plain};
use gradient::Attention;
use layout::{Cover, Layout};

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
struct Cut {
    heads: Heads,
    /// Width of a head.
    width: usize,
}

impl Cut {
    /// Queries of each head of keys.
    fn group(self) -> usize {
        self.heads.queries / self.heads.keys
    }

    /// What scores are multiplied with.
    fn scale(self) -> f64 {
        1.0 / (self.width as f64).sqrt()
    }

    /// The columns of queries, of keys and of values.
    fn columns(self) -> [Range<usize>; 3] {
        let [queries, keys] = [self.heads.queries, self.heads.keys].map(|heads| heads * self.width);
        [
            0..queries,
            queries..queries + keys,
            queries + keys..queries + 2 * keys,
        ]
    }
}

/// As [`crate::ops::attention`].
pub fn attention(qkv: Tensor<2>, spans: &Spans, heads: Heads) -> Tensor<2> {
    within(Budget::DEFAULT, qkv, spans, heads)
}

/// As [`attention`], with other bounds of the memory that it takes at once.
pub fn within(budget: Budget, qkv: Tensor<2>, spans: &Spans, heads: Heads) -> Tensor<2> {
    let [rows, columns] = qkv.dims();
    let cut = Cut {
        heads,
        width: heads.width(columns),
    };
    let values = plain(qkv.clone());
    let device = values.device();
    if spans.outputs() == 0 {
        return qkv.slice([0..0, cut.columns()[0].clone()]);
    }
    let layout = spans.laid(
        |layout: &Layout| layout.is_for(rows, &device, budget),
        || Layout::new(spans, rows, &device, budget),
    );
    let [queries, keys, of_keys] = parts(&values, cut);
    let inputs = Inputs {
        queries: layout.asked.take(queries),
        keys,
        values: of_keys,
    };
    let own = layout.own.attend(&inputs, cut, budget);
    let mixed = match &layout.prefix {
        None => own,
        Some(prefix) => own.and(prefix.attend(&inputs, cut, budget), cut),
    };
    let out = mixed.out.clone();
    record_rule([qkv], out, || Attention {
        qkv: values,
        mixed,
        layout: Layed(layout),
        cut,
        budget,
    })
}

/// Shown by its name alone.
#[derive(Clone)]
struct Layed(Arc<Layout>);

impl std::fmt::Debug for Layed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Layout")
    }
}

/// Queries, keys and values of packed rows.
fn parts(qkv: &Tensor<2>, cut: Cut) -> [Tensor<2>; 3] {
    let rows = qkv.dims()[0];
    cut.columns()
        .map(|columns| qkv.clone().slice([0..rows, columns]))
}

/// What attention is computed from: the queries that are asked for, in that order, and keys and values of all packed rows.
struct Inputs {
    queries: Tensor<2>,
    keys: Tensor<2>,
    values: Tensor<2>,
}

/// What queries get.
#[derive(Clone, Debug)]
struct Mixed {
    /// `[queries, heads * width]`.
    out: Tensor<2>,
    /// Log of the sum of the weights, `[queries, heads]`, in 32 bits.
    log_sum: Tensor<2>,
}

impl Mixed {
    /// Together with what the same queries get from other keys.
    fn and(self, other: Self, cut: Cut) -> Self {
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

impl Cover {
    fn attend(&self, inputs: &Inputs, cut: Cut, budget: Budget) -> Mixed {
        let mut out = Vec::new();
        let mut log_sum = Vec::new();
        for part in &self.parts {
            let grid = part.grid(inputs, cut);
            let queries = part.of_queries(&inputs.queries, cut);
            for block in part.blocks(cut, budget) {
                let mixed = block.attend(part, &grid, &queries);
                out.push(mixed.out);
                log_sum.push(mixed.log_sum);
            }
        }
        let log_sum = self.to_asked.take(Tensor::cat(log_sum, 0));
        Mixed {
            out: self.to_asked.take(Tensor::cat(out, 0)),
            log_sum: match &self.absent {
                None => log_sum,
                Some(absent) => log_sum + absent.clone(),
            },
        }
    }
}

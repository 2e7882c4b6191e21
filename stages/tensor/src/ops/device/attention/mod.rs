//! Attention on devices other than the CPU, in memory that grows with the rows and not with their square.
//!
//! Scores are computed in blocks that fit a budget, and thrown away. What is kept for the gradient is the result and, of
//! each row and head, the log of the sum of its weights: from that every weight is had again (Dao et al. 2022,
//! FlashAttention). Rows that look at a prefix and at rows of their own look at each apart; the two results are put
//! together by those sums, and a prefix is there once for all that share it.

mod block;
mod data;
mod gradient;
mod layout;

use burn::tensor::Tensor;

use crate::ops::graph::{plain, record_rule};
use crate::ops::{Heads, Spans, joined};
pub use data::Budget;
use data::{Cut, Inputs, Mixed, parts};
use gradient::{Attention, Laid};
use layout::{Cover, Layout};

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
        layout: Laid(layout),
        cut,
        budget,
    })
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
        let log_sum = self.to_asked.take(joined(log_sum, 0));
        Mixed {
            out: self.to_asked.take(joined(out, 0)),
            log_sum: match &self.absent {
                None => log_sum,
                Some(absent) => log_sum + absent.clone(),
            },
        }
    }
}

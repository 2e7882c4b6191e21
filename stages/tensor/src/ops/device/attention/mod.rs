//! Attention on devices other than the CPU, in memory that grows with the rows and not with their square.
//!
//! Scores are computed in blocks that fit a budget, and thrown away. What is kept for the gradient is the result and, of
//! each row and head, the log of the sum of its weights: from that every weight is had again (Dao et al. 2022,
//! FlashAttention). Rows that look at a prefix and at rows of their own look at each apart; the two results are put
//! together by those sums, and a prefix is there once for all that share it.

mod block;
mod cells;
mod data;
mod gradient;
mod layout;

use burn::tensor::{DType, Tensor};

use crate::ops::graph::{plain, record_rule};
use crate::ops::{Heads, Spans};
pub use data::Budget;
use data::{Cut, Mixed, Setting};
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
        return qkv.slice([0..0, 0..cut.columns()]);
    }
    let layout = spans.laid(
        |layout: &Layout| layout.is_for(rows, &device, budget),
        || Layout::new(spans, rows, &device, budget),
    );
    let setting = Setting {
        table: &layout.table,
        cut,
        budget,
    };
    let asked = spans.outputs();
    let own = layout.own.attend(&values, asked, setting);
    let mixed = match &layout.prefix {
        None => own,
        Some(prefix) => own.and(&prefix.attend(&values, asked, setting), cut),
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
    fn attend(&self, qkv: &Tensor<2>, asked: usize, setting: Setting<'_>) -> Mixed {
        let device = qkv.device();
        let (out, log_sum) = (
            [asked, setting.cut.columns()],
            [asked, setting.cut.heads.queries],
        );
        let (of_type, wide) = ((&device, qkv.dtype()), (&device, DType::F32));
        // A query in none of the grids gets nothing, with no weight.
        let mut mixed = match self.all {
            true => Mixed {
                out: Tensor::empty(out, of_type),
                log_sum: Tensor::empty(log_sum, wide),
            },
            false => Mixed {
                out: Tensor::zeros(out, of_type),
                log_sum: Tensor::full(log_sum, f32::MIN, wide),
            },
        };
        for part in &self.parts {
            let grid = part.grid(qkv, setting);
            for block in part.blocks(setting) {
                mixed = block.attend(part, &grid, qkv, mixed, setting);
            }
        }
        mixed
    }
}

//! The gradient of attention, block by block: weights are computed again from scores and the log of their sum.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use super::block::{Block, Grid};
use super::data::{Budget, Columns, Cut, Mixed, Setting};
use super::layout::{Layout, Part};
use crate::ops::device::product::product;
use crate::ops::device::width::typed;
use crate::ops::graph::Rule;

/// What is kept of attention.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    /// Packed queries, keys and values.
    pub(super) qkv: Tensor<2>,
    pub(super) mixed: Mixed,
    pub(super) layout: Laid,
    pub(super) cut: Cut,
    pub(super) budget: Budget,
}

/// Shown by its name alone.
#[derive(Clone)]
pub(super) struct Laid(pub(super) Arc<Layout>);

impl std::fmt::Debug for Laid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Layout")
    }
}

impl Rule<1> for Attention {
    fn gradients(self, grad: Tensor<2>, [asked]: [bool; 1]) -> [Option<Tensor<2>>; 1] {
        [asked.then(|| self.gradient(&grad))]
    }
}

impl Attention {
    fn gradient(self, grad: &Tensor<2>) -> Tensor<2> {
        let layout = &self.layout.0;
        let setting = Setting {
            table: &layout.table,
            cut: self.cut,
            budget: self.budget,
        };
        let dtype = self.qkv.dtype();
        let mut parts = layout.covers().flat_map(|cover| &cover.parts);
        // Sums are in 32 bits.
        let add = layout.sums || parts.any(|part| part.is_split(setting));
        let (shape, device) = (self.qkv.dims(), self.qkv.device());
        let place = (&device, if add { DType::F32 } else { dtype });
        let mut backward = Backward {
            of_qkv: match add || layout.gaps {
                true => Tensor::zeros(shape, place),
                false => Tensor::empty(shape, place),
            },
            along: self.mixed.along(grad, self.cut),
            log_sum: &self.mixed.log_sum,
            qkv: &self.qkv,
            grad,
            add,
            setting,
        };
        for part in layout.covers().flat_map(|cover| &cover.parts) {
            let grid = part.grid(&self.qkv, setting);
            for block in part.blocks(setting) {
                backward = backward.with(part, &grid, &block);
            }
        }
        typed(backward.of_qkv, dtype)
    }
}

/// A gradient on its way back.
struct Backward<'a> {
    /// The gradient of queries, keys and values, as far as it is known.
    of_qkv: Tensor<2>,
    /// Whether what comes is added to it: a row gets more than once.
    add: bool,
    /// What attention was computed from.
    qkv: &'a Tensor<2>,
    /// Of each query, in the order in which they are asked for: the gradient of what it got, `[asked, heads * width]`,
    grad: &'a Tensor<2>,
    /// the log of the sum of its weights, and the product of the gradient with what it got, `[asked, heads]` each.
    log_sum: &'a Tensor<2>,
    along: Tensor<2>,
    setting: Setting<'a>,
}

impl Backward<'_> {
    fn with(self, part: &Part, grid: &Grid, block: &Block) -> Self {
        let Setting { table, cut, .. } = self.setting;
        let columns = cut.queries();
        let queries = part.queries.bring(table, self.qkv, &block.queries, columns);
        let grad = part.asked.bring(table, self.grad, &block.queries, columns);
        let keys = block.seen_of(&grid.keys);
        let products = block.products(queries.clone(), keys.clone());
        let of_weights = block.products(grad.clone(), block.seen_of(&grid.values));
        let of_rows = [self.log_sum, &self.along];
        let [weights, of_products] =
            block.gradients(part, [products, of_weights], of_rows, self.setting);
        let of_values = product(weights.swap_dims(2, 3), grad);
        let of_keys = product(of_products.clone().swap_dims(2, 3), queries);
        let of_queries = product(of_products, keys);

        let (cells, add) = (&part.queries, self.add);
        let of_qkv = cells.spread(table, of_queries, &block.queries, columns, self.of_qkv, add);
        let group = block.queries.groups.start;
        let collect = |values, columns: Columns, rows| {
            let sources = &part.sources;
            sources.collect(table, values, group, columns.first, rows, add)
        };
        let of_qkv = collect(of_keys, cut.keys(), of_qkv);
        let of_qkv = collect(of_values, cut.values(), of_qkv);
        Self { of_qkv, ..self }
    }
}

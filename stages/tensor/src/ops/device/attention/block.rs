//! One block of attention: some queries of some groups of a grid.

use std::ops::Range;

use burn::tensor::{FloatDType, Tensor};

use super::cells::Stretch;
use super::data::{Cut, Mixed, Setting};
use super::layout::Part;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::host::on_host;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::ops::device::kernels;
use crate::ops::device::product::product;
use crate::ops::device::width::typed;

/// Keys and values in a grid, `[groups, key heads, keys, width]` each.
pub(super) struct Grid {
    pub(super) keys: Tensor<4>,
    pub(super) values: Tensor<4>,
}

/// Which queries of which groups a block has, and how many keys they see at most.
pub(super) struct Block {
    pub(super) queries: Stretch,
    pub(super) seen: usize,
    cut: Cut,
}

impl Part {
    pub(super) fn grid(&self, qkv: &Tensor<2>, setting: Setting<'_>) -> Grid {
        let all = self.keys.all();
        let bring = |columns| self.keys.bring(setting.table, qkv, &all, columns);
        Grid {
            keys: bring(setting.cut.keys()),
            values: bring(setting.cut.values()),
        }
    }

    /// Whether the queries of a group are in several blocks.
    pub(super) fn is_split(&self, setting: Setting<'_>) -> bool {
        self.blocks_of(setting)[1] < self.queries.places
    }

    fn blocks_of(&self, setting: Setting<'_>) -> [usize; 2] {
        self.at_once(setting.cut.heads.queries, setting.budget.scores)
    }

    pub(super) fn blocks(&self, setting: Setting<'_>) -> Vec<Block> {
        let [groups, queries] = self.blocks_of(setting);
        let blocks = stretches(self.queries.groups, groups).flat_map(|groups| {
            stretches(self.queries.places, queries).map(move |places| Block {
                seen: self.seen(&groups, &places),
                queries: Stretch {
                    groups: groups.clone(),
                    places,
                },
                cut: setting.cut,
            })
        });
        blocks.collect()
    }
}

fn stretches(count: usize, each: usize) -> impl Iterator<Item = Range<usize>> {
    let start = (0..count).step_by(each.max(1));
    start.map(move |start| start..(start + each).min(count))
}

impl Block {
    /// Of keys or values those that the block sees, `[groups, key heads, seen, width]`.
    pub(super) fn seen_of(&self, all: &Tensor<4>) -> Tensor<4> {
        let [_, heads, _, width] = all.dims();
        within(
            all,
            [
                self.queries.groups.clone(),
                0..heads,
                0..self.seen,
                0..width,
            ],
        )
    }

    /// Products of queries and keys, `[groups, key heads, group * queries, seen]`.
    pub(super) fn products(&self, queries: Tensor<4>, keys: Tensor<4>) -> Tensor<4> {
        product(queries, keys.swap_dims(2, 3))
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn sees<'a>(&self, part: &Part, setting: Setting<'a>) -> kernels::Sees<'a> {
        kernels::Sees {
            cells: part.asked.there(setting.table, &self.queries),
            queries: self.queries.places.len(),
            counts: part.counts,
            alike: part.alike(),
        }
    }

    /// The scores of products, in 32 bits.
    fn scores(&self, part: &Part, products: Tensor<4>) -> Tensor<4> {
        let scores = products.cast(FloatDType::F32) * self.cut.scale();
        let Stretch { groups, places } = &self.queries;
        match part.hidden(groups, places, self.seen, &scores.device()) {
            None => scores,
            Some(hidden) => {
                let shape = scores.dims();
                let [groups, heads, _, seen] = shape;
                let by_query = [groups, heads, self.cut.group(), places.len(), seen];
                (scores.reshape(by_query) + hidden).reshape(shape)
            }
        }
    }

    /// Weights of products in their own type; the log of the sum of each row's goes to `log_sum`. As in Transformers the
    /// softmax is in 32 bits, whatever the model's type is.
    fn weights(
        &self,
        part: &Part,
        products: Tensor<4>,
        log_sum: Tensor<2>,
        setting: Setting<'_>,
    ) -> (Tensor<4>, Tensor<2>) {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !on_host(&products) {
            let sees = self.sees(part, setting);
            return kernels::softmax(products, log_sum, &sees, self.cut.scale());
        }
        let dtype = products.dtype();
        let scores = self.scores(part, products);
        let most = scores.clone().max_dim(3);
        let weights = (scores - most.clone()).exp();
        let sum = weights.clone().sum_dim(3);
        let (own, columns) = (most + sum.clone().log(), self.cut.numbers());
        let cells = &part.asked;
        let log_sum = cells.spread(setting.table, own, &self.queries, columns, log_sum, false);
        (typed(weights / sum, dtype), log_sum)
    }

    /// Weights of products, and the gradients of the products from those of the weights, all in the products' type.
    /// `log_sum` and `along` are those of all queries.
    pub(super) fn gradients(
        &self,
        part: &Part,
        [products, of_weights]: [Tensor<4>; 2],
        [log_sum, along]: [&Tensor<2>; 2],
        setting: Setting<'_>,
    ) -> [Tensor<4>; 2] {
        let scale = self.cut.scale();
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !on_host(&products) {
            let sees = self.sees(part, setting);
            let both = [products, of_weights];
            return kernels::softmax_gradient(both, [log_sum, along], &sees, scale);
        }
        let of_rows = |all: &Tensor<2>| {
            let columns = self.cut.numbers();
            part.asked.bring(setting.table, all, &self.queries, columns)
        };
        let dtype = products.dtype();
        let weights = (self.scores(part, products) - of_rows(log_sum)).exp();
        let of_weights = of_weights.cast(FloatDType::F32) - of_rows(along);
        let of_products = weights.clone() * of_weights * scale;
        [weights, of_products].map(|each| typed(each, dtype))
    }

    /// Adds what the block's queries get.
    pub(super) fn attend(
        &self,
        part: &Part,
        grid: &Grid,
        qkv: &Tensor<2>,
        mixed: Mixed,
        setting: Setting<'_>,
    ) -> Mixed {
        let (table, columns) = (setting.table, setting.cut.queries());
        let queries = part.queries.bring(table, qkv, &self.queries, columns);
        let products = self.products(queries, self.seen_of(&grid.keys));
        let (weights, log_sum) = self.weights(part, products, mixed.log_sum, setting);
        let got = product(weights, self.seen_of(&grid.values));
        let cells = &part.asked;
        Mixed {
            out: cells.spread(table, got, &self.queries, columns, mixed.out, false),
            log_sum,
        }
    }
}

/// A part of a tensor; the tensor itself where that is all of it.
fn within<const D: usize>(tensor: &Tensor<D>, ranges: [Range<usize>; D]) -> Tensor<D> {
    match ranges.each_ref().map(Range::len) == tensor.dims() {
        true => tensor.clone(),
        false => tensor.clone().slice(ranges),
    }
}

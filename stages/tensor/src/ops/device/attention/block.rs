//! One block of attention: some queries of some groups of a grid.

use std::ops::Range;

use burn::tensor::{FloatDType, Tensor};

use super::data::{Budget, Cut, Inputs, Mixed};
use super::layout::Part;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::ops::device::kernels::{self, Sees};
use crate::ops::device::width::typed;

/// Keys and values in a grid, `[groups, key heads, keys, width]` each.
pub(super) struct Grid {
    pub(super) keys: Tensor<4>,
    pub(super) values: Tensor<4>,
}

/// What belongs to the queries of a grid, `[groups, queries, key heads, group, width]`.
#[derive(Clone)]
pub(super) struct OfQueries(Tensor<5>);

/// Which queries of which groups a block has, and how many keys they see at most.
pub(super) struct Block {
    pub(super) groups: Range<usize>,
    pub(super) queries: Range<usize>,
    pub(super) seen: usize,
    pub(super) scale: f64,
    /// Queries of each head of keys.
    group: usize,
}

impl Part {
    pub(super) fn grid(&self, inputs: &Inputs, cut: Cut) -> Grid {
        let of_rows = |rows: &Tensor<2>| {
            let grid = self.key_rows.take(rows.clone());
            let shape = [self.groups, self.keys, cut.heads.keys, cut.width];
            grid.reshape(shape).swap_dims(1, 2)
        };
        Grid {
            keys: of_rows(&inputs.keys),
            values: of_rows(&inputs.values),
        }
    }

    /// From `[asked, heads * width]`.
    pub(super) fn of_queries(&self, rows: &Tensor<2>, cut: Cut) -> OfQueries {
        let width = rows.dims()[1] / cut.heads.queries;
        let (keys, group) = (cut.heads.keys, cut.group());
        let grid = self.query_rows.take(rows.clone());
        OfQueries(grid.reshape([self.groups, self.queries, keys, group, width]))
    }

    pub(super) fn blocks(&self, cut: Cut, budget: Budget) -> Vec<Block> {
        let [groups, queries] = self.at_once(cut.heads.queries, budget.scores);
        let blocks = stretches(self.groups, groups).flat_map(|groups| {
            stretches(self.queries, queries).map(move |queries| Block {
                seen: self.seen(&groups, &queries),
                groups: groups.clone(),
                queries,
                scale: cut.scale(),
                group: cut.group(),
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
    /// Of what belongs to queries that of the block's, `[groups, key heads, group * queries, width]`: the queries of a group
    /// of heads are rows of one product with their head of keys.
    pub(super) fn rows(&self, all: &OfQueries) -> Tensor<4> {
        let [_, _, keys, group, width] = all.0.dims();
        let (groups, queries) = (self.groups.len(), self.queries.len());
        let own = within(
            &all.0,
            [
                self.groups.clone(),
                self.queries.clone(),
                0..keys,
                0..group,
                0..width,
            ],
        );
        own.permute([0, 2, 3, 1, 4])
            .reshape([groups, keys, group * queries, width])
    }

    /// The inverse of [`Block::rows`]: `[groups * queries, heads * width]`.
    pub(super) fn out(&self, rows: Tensor<4>) -> Tensor<2> {
        let [groups, keys, _, width] = rows.dims();
        let (queries, group) = (self.queries.len(), self.group);
        rows.reshape([groups, keys, group, queries, width])
            .permute([0, 3, 1, 2, 4])
            .reshape([groups * queries, keys * group * width])
    }

    /// Of keys or values those that the block sees, `[groups, key heads, seen, width]`.
    pub(super) fn seen_of(&self, all: &Tensor<4>) -> Tensor<4> {
        let [_, heads, _, width] = all.dims();
        within(all, [self.groups.clone(), 0..heads, 0..self.seen, 0..width])
    }

    /// Products of queries and keys, `[groups, key heads, group * queries, seen]`.
    pub(super) fn products(&self, queries: Tensor<4>, keys: Tensor<4>) -> Tensor<4> {
        queries.matmul(keys.swap_dims(2, 3))
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn sees<'a>(&self, part: &'a Part) -> Sees<'a> {
        Sees {
            counts: &part.sees_there,
            group: self.groups.start,
            query: self.queries.start,
            queries: self.queries.len(),
        }
    }

    /// The scores of products, in 32 bits.
    fn scores(&self, part: &Part, products: Tensor<4>) -> Tensor<4> {
        let scores = products.cast(FloatDType::F32) * self.scale;
        match part.hidden(&self.groups, &self.queries, self.seen) {
            None => scores,
            Some(hidden) => {
                let shape = scores.dims();
                let [groups, heads, _, seen] = shape;
                let by_query = [groups, heads, self.group, self.queries.len(), seen];
                (scores.reshape(by_query) + hidden).reshape(shape)
            }
        }
    }

    /// Weights of products in their own type, and the log of the sum of each row's, in 32 bits. As in Transformers the
    /// softmax is in 32 bits, whatever the model's type is.
    fn weights(&self, part: &Part, products: Tensor<4>) -> [Tensor<4>; 2] {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !crate::host::on_host(&products) {
            return kernels::softmax(products, &self.sees(part), self.scale);
        }
        let dtype = products.dtype();
        let scores = self.scores(part, products);
        let most = scores.clone().max_dim(3);
        let weights = (scores - most.clone()).exp();
        let sum = weights.clone().sum_dim(3);
        [typed(weights / sum.clone(), dtype), most + sum.log()]
    }

    /// Weights of products, and the gradients of the products from those of the weights, all in the products' type.
    pub(super) fn gradients(
        &self,
        part: &Part,
        [products, of_weights]: [Tensor<4>; 2],
        [log_sum, along]: [&OfQueries; 2],
    ) -> [Tensor<4>; 2] {
        let (log_sum, along) = (self.rows(log_sum), self.rows(along));
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !crate::host::on_host(&products) {
            let of_rows = [&log_sum, &along];
            let both = [products, of_weights];
            return kernels::softmax_gradient(both, of_rows, &self.sees(part), self.scale);
        }
        let dtype = products.dtype();
        let weights = (self.scores(part, products) - log_sum).exp();
        let of_weights = of_weights.cast(FloatDType::F32);
        let of_products = weights.clone() * (of_weights - along) * self.scale;
        [weights, of_products].map(|each| typed(each, dtype))
    }

    /// What the block's queries get.
    pub(super) fn attend(&self, part: &Part, grid: &Grid, queries: &OfQueries) -> Mixed {
        let products = self.products(self.rows(queries), self.seen_of(&grid.keys));
        let [weights, log_sum] = self.weights(part, products);
        Mixed {
            out: self.out(weights.matmul(self.seen_of(&grid.values))),
            log_sum: self.out(log_sum),
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

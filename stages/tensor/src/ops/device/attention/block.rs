//! One block of attention: some queries of some groups of a grid.

use std::ops::Range;

use burn::tensor::{FloatDType, Tensor};

use super::data::{Budget, Cut, Inputs, Mixed};
use super::layout::Part;
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

    /// `[groups, key heads, group * queries, seen]`, in 32 bits.
    pub(super) fn scores(&self, part: &Part, queries: Tensor<4>, keys: Tensor<4>) -> Tensor<4> {
        let scores = queries.matmul(keys.swap_dims(2, 3)).cast(FloatDType::F32) * self.scale;
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

    /// What the block's queries get. As in Transformers the softmax is in 32 bits, whatever the model's type is.
    pub(super) fn attend(&self, part: &Part, grid: &Grid, queries: &OfQueries) -> Mixed {
        let queries = self.rows(queries);
        let dtype = queries.dtype();
        let scores = self.scores(part, queries, self.seen_of(&grid.keys));
        let most = scores.clone().max_dim(3);
        let weights = (scores - most.clone()).exp();
        let sum = weights.clone().sum_dim(3);
        let weights = typed(weights / sum.clone(), dtype);
        Mixed {
            out: self.out(weights.matmul(self.seen_of(&grid.values))),
            log_sum: self.out(most + sum.log()),
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

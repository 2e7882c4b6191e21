//! The gradient of attention, block by block: weights are computed again from scores and the log of their sum.

use std::sync::Arc;

use burn::tensor::{FloatDType, Tensor};

use super::block::{Block, Grid, OfQueries};
use super::data::{Budget, Cut, Inputs, Mixed, parts};
use super::layout::{Cover, Layout, Part};
use crate::ops::device::width::typed;
use crate::ops::graph::Rule;
use crate::ops::joined;

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

/// Of each query, in the order in which they are asked for.
struct Backward {
    /// The gradient of what it got, `[asked, heads * width]`.
    grad: Tensor<2>,
    /// Log of the sum of its weights, and the product of the gradient with what it got: `[asked, heads]` each, in 32 bits.
    log_sum: Tensor<2>,
    along: Tensor<2>,
}

impl Rule<1> for Attention {
    fn gradients(self, grad: Tensor<2>, [asked]: [bool; 1]) -> [Option<Tensor<2>>; 1] {
        [asked.then(|| self.gradient(grad))]
    }
}

impl Attention {
    fn gradient(self, grad: Tensor<2>) -> Tensor<2> {
        let (cut, budget, dtype) = (self.cut, self.budget, self.qkv.dtype());
        let layout = &self.layout.0;
        let [queries, keys, values] = parts(&self.qkv, cut);
        let inputs = Inputs {
            queries: layout.asked.take(queries),
            keys,
            values,
        };
        let backward = Backward {
            along: along(&grad, &self.mixed.out, cut),
            log_sum: self.mixed.log_sum,
            grad,
        };
        let covers = layout.covers();
        let gradients = covers.map(|cover| cover.gradient(&inputs, &backward, cut, budget));
        let each = gradients.reduce(|a, b| {
            let both = a.into_iter().zip(b).map(|(a, b)| wide_sum(a, b));
            both.collect::<Vec<_>>().try_into().expect("as many")
        });
        let [queries, keys, values] = each.expect("there is one");
        let queries = layout.asked_to_rows.take(queries);
        let all = [queries, keys, values].map(|gradient| typed(gradient, dtype));
        Tensor::cat(all.to_vec(), 1)
    }
}

/// Of each row and head the product of two rows, in 32 bits.
fn along(grad: &Tensor<2>, out: &Tensor<2>, cut: Cut) -> Tensor<2> {
    let [rows, _] = grad.dims();
    let heads = cut.heads.queries;
    let product = grad.clone().cast(FloatDType::F32) * out.clone().cast(FloatDType::F32);
    let product = product.reshape([rows, heads, cut.width]).sum_dim(2);
    product.reshape([rows, heads])
}

/// In 32 bits where there is more than one.
fn sum(gradients: impl Iterator<Item = Tensor<2>>) -> Tensor<2> {
    gradients.reduce(wide_sum).expect("each query sees a key")
}

impl Cover {
    /// Gradients of the queries, in the order in which they are asked for, and of all rows' keys and values.
    fn gradient(
        &self,
        inputs: &Inputs,
        backward: &Backward,
        cut: Cut,
        budget: Budget,
    ) -> [Tensor<2>; 3] {
        let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for part in &self.parts {
            let mut gradients = PartGradient::new(part, inputs, backward, cut);
            for block in part.blocks(cut, budget) {
                queries.push(gradients.add(part, &block));
            }
            let (of_keys, of_values) = gradients.of_keys();
            keys.push(of_keys);
            values.push(of_values);
        }
        let to_rows = |cells: Vec<Tensor<2>>| {
            let cells = joined(cells, 0);
            let takes = self.keys_to_rows.iter();
            sum(takes.map(|to_rows| to_rows.take(cells.clone())))
        };
        [
            self.to_asked.take(joined(queries, 0)),
            to_rows(keys),
            to_rows(values),
        ]
    }
}

/// The gradients of one grid.
struct PartGradient {
    grid: Grid,
    queries: OfQueries,
    grad: OfQueries,
    log_sum: OfQueries,
    along: OfQueries,
    /// Finished groups, then the group under way: keys and values, `[groups, key heads, keys, width]`.
    finished: Vec<[Tensor<4>; 2]>,
    under_way: Option<[Tensor<4>; 2]>,
}

impl PartGradient {
    fn new(part: &Part, inputs: &Inputs, backward: &Backward, cut: Cut) -> Self {
        Self {
            grid: part.grid(inputs, cut),
            queries: part.of_queries(&inputs.queries, cut),
            grad: part.of_queries(&backward.grad, cut),
            log_sum: part.of_queries(&backward.log_sum, cut),
            along: part.of_queries(&backward.along, cut),
            finished: Vec::new(),
            under_way: None,
        }
    }

    /// Adds a block; gives the gradient of its queries.
    fn add(&mut self, part: &Part, block: &Block) -> Tensor<2> {
        let queries = block.rows(&self.queries);
        let grad = block.rows(&self.grad);
        let keys = block.seen_of(&self.grid.keys);
        let values = block.seen_of(&self.grid.values);
        let products = block.products(queries.clone(), keys.clone());
        let of_weights = block.products(grad.clone(), values);
        let of_rows = [&self.log_sum, &self.along];
        let [weights, of_products] = block.gradients(part, [products, of_weights], of_rows);
        let of_values = weights.swap_dims(2, 3).matmul(grad);
        let of_keys = of_products.clone().swap_dims(2, 3).matmul(queries);
        self.add_keys(part, block, [of_keys, of_values]);
        block.out(of_products.matmul(keys))
    }

    fn add_keys(&mut self, part: &Part, block: &Block, gradients: [Tensor<4>; 2]) {
        let dtype = gradients[0].dtype();
        let whole = gradients.map(|gradient| padded(gradient, part.keys));
        let both = match self.under_way.take() {
            None => whole,
            Some(so_far) => {
                let [keys, values] = so_far;
                let [more_keys, more_values] = whole;
                [wide_sum(keys, more_keys), wide_sum(values, more_values)]
            }
        };
        match block.queries.end == part.queries {
            true => self.finished.push(both.map(|sum| typed(sum, dtype))),
            false => self.under_way = Some(both),
        }
    }

    /// Of all cells, `[groups * keys, key heads * width]`.
    fn of_keys(self) -> (Tensor<2>, Tensor<2>) {
        let cells = |grid: Tensor<4>| {
            let [groups, heads, keys, width] = grid.dims();
            grid.swap_dims(1, 2).reshape([groups * keys, heads * width])
        };
        let finished = self.finished.into_iter();
        let (keys, values): (Vec<_>, Vec<_>) = finished
            .map(|[keys, values]| (cells(keys), cells(values)))
            .unzip();
        (joined(keys, 0), joined(values, 0))
    }
}

/// With zeros for the keys that nobody saw: `[groups, heads, keys, width]`.
fn padded(gradient: Tensor<4>, keys: usize) -> Tensor<4> {
    let [groups, heads, seen, width] = gradient.dims();
    if seen == keys {
        return gradient;
    }
    let unseen = [groups, heads, keys - seen, width];
    let unseen = Tensor::zeros(unseen, (&gradient.device(), gradient.dtype()));
    Tensor::cat(vec![gradient, unseen], 2)
}

fn wide_sum<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    a.cast(FloatDType::F32) + b.cast(FloatDType::F32)
}

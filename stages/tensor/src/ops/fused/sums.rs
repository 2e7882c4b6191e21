//! Sums, means and what is made of them, in an order that is the same on every machine.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::{Tensor, TensorData};

use super::{Flat, Input, new, record, values};
use crate::kernels::{self, parallel};

#[derive(Debug)]
struct WeightedSum;

/// The products and their sum are in double precision, rounded once.
pub(in crate::ops) fn weighted_sum(x: Tensor<1>, weights: &[f32]) -> Tensor<1> {
    let x = Input::new(x);
    let data = x.contiguous();
    let products = values(&data).iter().zip(weights);
    let sum = products.fold(0.0, |sum, (&x, &weight)| {
        sum + f64::from(x) * f64::from(weight)
    });
    let out = new(vec![sum as f32], [1]);
    record(WeightedSum, [x], out, || weights.into())
}

impl Backward<Flex, 1> for WeightedSum {
    /// The weights.
    type State = Arc<[f32]>;

    fn backward(self, ops: Ops<Arc<[f32]>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [node] = ops.parents;
        let Some(node) = node else { return };
        let factor = values(&grad)[0];
        let out: Vec<f32> = ops.state.iter().map(|weight| weight * factor).collect();
        let count = out.len();
        grads.register::<Flex>(node.id, new(out, [count]));
    }
}

#[derive(Debug)]
struct SentBack;

/// Its value is 0.
pub(in crate::ops) fn sent_back(x: Tensor<2>, gradient: Tensor<2>) -> Tensor<1> {
    let (x, gradient) = (Input::new(x), Input::new(gradient));
    let out = new(vec![0.0], [1]);
    record(SentBack, [x], out, || gradient.contiguous())
}

impl Backward<Flex, 1> for SentBack {
    /// The gradient.
    type State = Flat;

    fn backward(self, ops: Ops<Flat, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [node] = ops.parents;
        let Some(node) = node else { return };
        let factor = values(&grad)[0];
        if factor == 1.0 {
            return grads.register::<Flex>(node.id, ops.state);
        }
        let shape = ops.state.layout().shape();
        let shape = [shape[0], shape[1]];
        let scaled = values(&ops.state).iter().map(|value| value * factor);
        let scaled = scaled.collect();
        grads.register::<Flex>(node.id, new(scaled, shape));
    }
}

#[derive(Debug)]
struct MeanOfRows;

/// Rows of one stretch.
#[derive(Clone, Copy, Debug)]
struct Stretch(usize);

pub(in crate::ops) fn mean_of_rows(x: Tensor<2>, rows: usize) -> Tensor<2> {
    let [all, width] = x.dims();
    let x = Input::new(x);
    let data = x.contiguous();
    let mut out = vec![0f32; all / rows * width];
    let stretches = values(&data).chunks_exact((rows * width).max(1));
    for (stretch, out) in stretches.zip(out.chunks_exact_mut(width.max(1))) {
        for row in stretch.chunks_exact(width) {
            for (sum, value) in out.iter_mut().zip(row) {
                *sum += value;
            }
        }
        out.iter_mut().for_each(|sum| *sum /= rows as f32);
    }
    let out = new(out, [all / rows, width]);
    record(MeanOfRows, [x], out, || Stretch(rows))
}

impl Backward<Flex, 1> for MeanOfRows {
    type State = Stretch;

    fn backward(self, ops: Ops<Stretch, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [node] = ops.parents;
        let Some(node) = node else { return };
        let shape = grad.layout().shape();
        let (count, width, Stretch(rows)) = (shape[0], shape[1], ops.state);
        let share = 1.0 / rows as f32;
        let mut out = Vec::with_capacity(count * rows * width);
        for row in values(&grad).chunks_exact(width.max(1)) {
            for _ in 0..rows {
                out.extend(row.iter().map(|grad| grad * share));
            }
        }
        grads.register::<Flex>(node.id, new(out, [count * rows, width]));
    }
}

/// Without gradient. With `w = exp(x / temperature - largest)`: `log(sum(w)) - sum(w log(w)) / sum(w)`.
pub(in crate::ops) fn entropy(logits: Tensor<2>, temperature: f64) -> Tensor<1> {
    let scale = (1.0 / temperature) as f32;
    by_row(logits, move |row| kernels::entropy(row, scale))
}

/// Without gradient.
pub(in crate::ops) fn squares_of_rows(x: Tensor<2>) -> Tensor<1> {
    by_row(x, kernels::squares)
}

/// One number of each row.
fn by_row(x: Tensor<2>, f: impl Fn(&[f32]) -> f32 + Sync) -> Tensor<1> {
    let ([rows, width], device) = (x.dims(), x.device());
    let data = Input::new(x).contiguous();
    let data = values(&data);
    let mut out = vec![0.0; rows];
    parallel::rows(&mut out, 1, |first, out| {
        let data = &data[first * width..][..out.len() * width];
        for (row, out) in data.chunks_exact(width).zip(out) {
            *out = f(row);
        }
    });
    Tensor::from_data(TensorData::new(out, [rows]), &device)
}

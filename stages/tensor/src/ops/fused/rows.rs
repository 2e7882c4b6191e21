//! Rows by index.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::Tensor;

use super::{Input, new, record, values};

#[derive(Debug)]
struct TakeRows;

/// Where the rows come from.
#[derive(Clone, Debug)]
struct State {
    shape: [usize; 2],
    indices: Arc<[u32]>,
}

pub(in crate::ops) fn take_rows(x: Tensor<2>, indices: &[u32]) -> Tensor<2> {
    let shape = x.dims();
    let [_, width] = shape;
    let x = Input::new(x);
    let data = x.contiguous();
    let data = values(&data);
    let mut out = Vec::with_capacity(indices.len() * width);
    for &index in indices {
        out.extend_from_slice(&data[index as usize * width..][..width]);
    }
    let out = new(out, [indices.len(), width]);
    record(TakeRows, [x], out, || State {
        shape,
        indices: indices.into(),
    })
}

impl Backward<Flex, 1> for TakeRows {
    type State = State;

    fn backward(self, ops: Ops<State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let State { shape, indices } = ops.state;
        let [rows, width] = shape;
        let [node] = ops.parents;
        let Some(node) = node else { return };
        let mut out = vec![0.0f32; rows * width];
        for (grad, &index) in values(&grad).chunks_exact(width).zip(&*indices) {
            for (sum, value) in out[index as usize * width..][..width].iter_mut().zip(grad) {
                *sum += value;
            }
        }
        grads.register::<Flex>(node.id, new(out, shape));
    }
}

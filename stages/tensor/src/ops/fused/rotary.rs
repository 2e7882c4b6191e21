//! Rotary positions.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::Tensor;

use super::{Input, new, record, values};
use crate::kernels::{self, parallel};
use crate::ops::Rotary;

#[derive(Debug)]
struct Rotate;

#[derive(Clone, Debug)]
struct State {
    rotary: Rotary,
    heads: usize,
}

impl State {
    /// Turns rows of `width` values in place, or back if `sign` is -1.
    fn turn(&self, rows: &mut [f32], width: usize, sign: f32) {
        let (half, heads) = (self.rotary.half(), self.heads);
        parallel::rows(rows, width, |first, rows| {
            let table = first * half..(first + rows.len() / width) * half;
            let (cos, sin) = (&self.rotary.cos()[table.clone()], &self.rotary.sin()[table]);
            kernels::rotate(rows, width, heads, half, cos, sin, sign);
        });
    }
}

pub(in crate::ops) fn rotate(x: Tensor<2>, rotary: &Rotary, heads: usize) -> Tensor<2> {
    let [rows, width] = x.dims();
    let x = Input::new(x);
    let state = State {
        rotary: rotary.clone(),
        heads,
    };
    let mut out = values(&x.contiguous()).to_vec();
    state.turn(&mut out, width, 1.0);
    let out = new(out, [rows, width]);
    record(Rotate, [x], out, || state)
}

impl Backward<Flex, 1> for Rotate {
    type State = State;

    fn backward(self, ops: Ops<State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [node] = ops.parents;
        let Some(node) = node else { return };
        let shape = grad.layout().shape();
        let (rows, width) = (shape[0], shape[1]);
        let mut out = values(&grad).to_vec();
        // A rotation's transpose is the rotation back.
        ops.state.turn(&mut out, width, -1.0);
        grads.register::<Flex>(node.id, new(out, [rows, width]));
    }
}

//! The gate of a SwiGLU layer.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::Tensor;

use super::{Flat, Input, new, record, values};
use crate::kernels::{self, parallel};

#[derive(Debug)]
struct SwiGlu;

#[derive(Clone, Debug)]
struct State {
    gate: Flat,
    up: Flat,
}

pub(in crate::ops) fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let [rows, width] = gate.dims();
    let (gate, up) = (Input::new(gate), Input::new(up));
    let state = State {
        gate: gate.contiguous(),
        up: up.contiguous(),
    };
    let mut out = vec![0.0; rows * width];
    parallel::rows(&mut out, width, |first, out| {
        let part = first * width..first * width + out.len();
        kernels::swiglu(
            &values(&state.gate)[part.clone()],
            &values(&state.up)[part],
            out,
        );
    });
    let out = new(out, [rows, width]);
    record(SwiGlu, [gate, up], out, || state)
}

impl Backward<Flex, 2> for SwiGlu {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let shape = grad.layout().shape();
        let (rows, width) = (shape[0], shape[1]);
        let (gate, up, grad) = (
            values(&ops.state.gate),
            values(&ops.state.up),
            values(&grad),
        );
        let [gate_node, up_node] = ops.parents;
        let mut gate_grad = vec![0.0; grad.len()];
        let mut up_grad = vec![0.0; grad.len()];
        parallel::two_rows(&mut gate_grad, width, &mut up_grad, width, |first, a, b| {
            let part = first * width..first * width + a.len();
            kernels::swiglu_backward(&gate[part.clone()], &up[part.clone()], &grad[part], a, b);
        });
        for (node, grad) in [(gate_node, gate_grad), (up_node, up_grad)] {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, new(grad, [rows, width]));
            }
        }
    }
}

//! Root-mean-square normalisation.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::Tensor;

use super::{Flat, Input, new, record, values};
use crate::kernels::{self, parallel};

#[derive(Debug)]
struct RmsNorm;

#[derive(Clone, Debug)]
struct State {
    x: Flat,
    scale: Flat,
    epsilon: f32,
}

pub(in crate::ops) fn rms_norm(x: Tensor<2>, scale: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    let [rows, width] = x.dims();
    let (x, scale) = (Input::new(x), Input::new(scale.clone()));
    let state = State {
        x: x.contiguous(),
        scale: scale.contiguous(),
        epsilon: epsilon as f32,
    };
    let mut out = vec![0.0; rows * width];
    parallel::rows(&mut out, width, |first, out| {
        let x = &values(&state.x)[first * width..][..out.len()];
        kernels::rms_norm(x, values(&state.scale), state.epsilon, out);
    });
    let out = new(out, [rows, width]);
    record(RmsNorm, [x, scale], out, || state)
}

impl Backward<Flex, 2> for RmsNorm {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, scale) = (values(&ops.state.x), values(&ops.state.scale));
        let (grad, width) = (values(&grad), scale.len());
        let [x_node, scale_node] = ops.parents;
        let mut x_grad = vec![0.0; x.len()];
        let sums = if scale_node.is_some() { width } else { 0 };
        let sums = parallel::rows_and_sums(&mut x_grad, width, sums, |first, out, sums| {
            let rows = first * width..first * width + out.len();
            let sums = (!sums.is_empty()).then_some(sums);
            let epsilon = ops.state.epsilon;
            kernels::rms_norm_backward(&x[rows.clone()], scale, epsilon, &grad[rows], out, sums);
        });
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, new(x_grad, [x.len() / width, width]));
        }
        if let Some(node) = scale_node {
            grads.register::<Flex>(node.id, new(sums, [1, width]));
        }
    }
}

//! Layer normalisation.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::Tensor;

use super::{Flat, Input, new, record, values};
use crate::kernels::{self, parallel};

#[derive(Debug)]
struct LayerNorm;

/// Input, scale and epsilon.
#[derive(Clone, Debug)]
struct State {
    x: Flat,
    scale: Flat,
    epsilon: f32,
}

pub(in crate::ops) fn layer_norm(
    x: Tensor<2>,
    scale: &Tensor<2>,
    shift: &Tensor<2>,
    epsilon: f64,
) -> Tensor<2> {
    let [rows, width] = x.dims();
    let (x, scale, shift) = (
        Input::new(x),
        Input::new(scale.clone()),
        Input::new(shift.clone()),
    );
    let state = State {
        x: x.contiguous(),
        scale: scale.contiguous(),
        epsilon: epsilon as f32,
    };
    let shift_values = shift.contiguous();
    let mut out = vec![0.0; rows * width];
    parallel::rows(&mut out, width, |first, out| {
        let x = &values(&state.x)[first * width..][..out.len()];
        kernels::layer_norm(
            x,
            values(&state.scale),
            values(&shift_values),
            state.epsilon,
            out,
        );
    });
    let out = new(out, [rows, width]);
    record(LayerNorm, [x, scale, shift], out, || state)
}

impl Backward<Flex, 3> for LayerNorm {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, scale) = (values(&ops.state.x), values(&ops.state.scale));
        let (grad, width) = (values(&grad), scale.len());
        let [x_node, scale_node, shift_node] = ops.parents;
        let affine = scale_node.is_some() || shift_node.is_some();
        let mut x_grad = vec![0.0; x.len()];
        let sums = parallel::rows_and_sums(
            &mut x_grad,
            width,
            if affine { 2 * width } else { 0 },
            |first, out, sums| {
                let rows = first * width..first * width + out.len();
                let sums = affine.then(|| sums.split_at_mut(width));
                kernels::layer_norm_backward(
                    &x[rows.clone()],
                    scale,
                    ops.state.epsilon,
                    &grad[rows],
                    out,
                    sums,
                );
            },
        );
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, new(x_grad, [x.len() / width, width]));
        }
        if let Some(node) = scale_node {
            grads.register::<Flex>(node.id, new(sums[..width].to_vec(), [1, width]));
        }
        if let Some(node) = shift_node {
            grads.register::<Flex>(node.id, new(sums[width..].to_vec(), [1, width]));
        }
    }
}

//! The gate of a SwiGLU layer: a unit works on one value.

use burn::backend::Cube;
use burn::tensor::Tensor as BurnTensor;
use cubecl::prelude::*;

use crate::ops::cube::{UNITS, by_dtype, cubes_for, floats};

/// As [`crate::ops::device::swiglu`].
pub(in super::super) fn swiglu(gate: &BurnTensor<2>, up: &BurnTensor<2>) -> BurnTensor<2> {
    let out = BurnTensor::<2>::empty(gate.dims(), (&gate.device(), gate.dtype()));
    let count = gate.shape().num_elements();
    if count == 0 {
        return out;
    }
    let (dtype, out) = (gate.dtype(), floats(&out));
    let client = out.client.clone();
    by_dtype!(dtype, F => swiglu_kernel::launch::<F>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        floats(gate).into_tensor_arg(),
        floats(up).into_tensor_arg(),
        out.clone().into_tensor_arg(),
    ));
    BurnTensor::from_primitive::<Cube>(out)
}

/// The gradients of gate and up from that of what came of them.
pub(in super::super) fn swiglu_gradients(
    gate: &BurnTensor<2>,
    up: &BurnTensor<2>,
    grad: &BurnTensor<2>,
) -> [BurnTensor<2>; 2] {
    let dtype = gate.dtype();
    let new = || BurnTensor::<2>::empty(gate.dims(), (&gate.device(), dtype));
    let both = [new(), new()];
    let count = gate.shape().num_elements();
    if count == 0 {
        return both;
    }
    let [of_gate, of_up] = both.each_ref().map(floats);
    let client = of_gate.client.clone();
    by_dtype!(dtype, F => gradients_kernel::launch::<F>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        floats(gate).into_tensor_arg(),
        floats(up).into_tensor_arg(),
        floats(grad).into_tensor_arg(),
        of_gate.into_tensor_arg(),
        of_up.into_tensor_arg(),
    ));
    both
}

/// The logistic function, of an exponential that is never large.
#[cube]
fn logistic(x: f32) -> f32 {
    let small = (-x.abs()).exp();
    let mut share = 1.0 / (1.0 + small);
    if x < 0.0 {
        share *= small;
    }
    share
}

/// All are `[rows, width]`.
#[cube(launch)]
fn swiglu_kernel<F: Float>(gate: &Tensor<F>, up: &Tensor<F>, out: &mut Tensor<F>) {
    let columns = out.shape(1);
    let (row, column) = (ABSOLUTE_POS / columns, ABSOLUTE_POS % columns);
    if row < out.shape(0) {
        let x = f32::cast_from(gate[row * gate.stride(0) + column * gate.stride(1)]);
        let up = f32::cast_from(up[row * up.stride(0) + column * up.stride(1)]);
        let place = row * out.stride(0) + column * out.stride(1);
        out[place] = F::cast_from(x * logistic(x) * up);
    }
}

/// `silu(x) = x * s(x)`, so `silu'(x) = s(x) * (1 + x * (1 - s(x)))`, s being the logistic function.
#[cube(launch)]
fn gradients_kernel<F: Float>(
    gate: &Tensor<F>,
    up: &Tensor<F>,
    grad: &Tensor<F>,
    of_gate: &mut Tensor<F>,
    of_up: &mut Tensor<F>,
) {
    let columns = grad.shape(1);
    let (row, column) = (ABSOLUTE_POS / columns, ABSOLUTE_POS % columns);
    if row < grad.shape(0) {
        let x = f32::cast_from(gate[row * gate.stride(0) + column * gate.stride(1)]);
        let up = f32::cast_from(up[row * up.stride(0) + column * up.stride(1)]);
        let grad = f32::cast_from(grad[row * grad.stride(0) + column * grad.stride(1)]);
        let share = logistic(x);
        let silu = x * share;
        let gate_place = row * of_gate.stride(0) + column * of_gate.stride(1);
        let up_place = row * of_up.stride(0) + column * of_up.stride(1);
        of_gate[gate_place] = F::cast_from(grad * up * (share + silu * (1.0 - share)));
        of_up[up_place] = F::cast_from(grad * silu);
    }
}

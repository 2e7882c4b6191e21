//! GELU and its slope: a unit works on one value.

#![allow(
    unstable_name_collisions,
    reason = "floats of the standard library may get an `erf` of their own; a kernel's is CubeCL's"
)]

use burn::backend::Cube;
use burn::tensor::Tensor as BurnTensor;
use cubecl::prelude::*;

use crate::ops::cube::{UNITS, by_dtype, cubes_for, floats};

/// Hendrycks and Gimpel 2016.
const CUBIC: f32 = 0.044_715;
const THRICE: f32 = 3.0 * CUBIC;
/// The square root of 1/2, of 2 / pi and of 1 / (2 pi).
const ROOT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
const ROOT_TWO_BY_PI: f32 = 0.797_884_6;
const DENSITY: f32 = 0.398_942_3;

/// GELU with the error function, or by `tanh`.
pub(in super::super) fn gelu(x: &BurnTensor<2>, tanh: bool) -> BurnTensor<2> {
    launch(x, x, tanh, false)
}

/// The gradient of what went in from that of what came out.
pub(in super::super) fn gelu_gradient(
    x: &BurnTensor<2>,
    grad: &BurnTensor<2>,
    tanh: bool,
) -> BurnTensor<2> {
    launch(x, grad, tanh, true)
}

fn launch(x: &BurnTensor<2>, grad: &BurnTensor<2>, tanh: bool, back: bool) -> BurnTensor<2> {
    let dtype = x.dtype();
    let out = BurnTensor::<2>::empty(x.dims(), (&x.device(), dtype));
    let count = x.shape().num_elements();
    if count == 0 {
        return out;
    }
    let out = floats(&out);
    let client = out.client.clone();
    by_dtype!(dtype, F => gelu_kernel::launch::<F>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        floats(x).into_tensor_arg(),
        floats(grad).into_tensor_arg(),
        out.clone().into_tensor_arg(),
        tanh,
        back,
    ));
    BurnTensor::from_primitive::<Cube>(out)
}

/// All are `[rows, width]`; `grad` is read on the way back alone.
#[cube(launch)]
fn gelu_kernel<F: Float>(
    x: &Tensor<F>,
    grad: &Tensor<F>,
    out: &mut Tensor<F>,
    #[comptime] tanh: bool,
    #[comptime] back: bool,
) {
    let columns = out.shape(1);
    let (row, column) = (ABSOLUTE_POS / columns, ABSOLUTE_POS % columns);
    if row < out.shape(0) {
        let value = f32::cast_from(x[row * x.stride(0) + column * x.stride(1)]);
        let mut result = value * share(value, tanh);
        if comptime!(back) {
            let grad = f32::cast_from(grad[row * grad.stride(0) + column * grad.stride(1)]);
            result = grad * slope(value, tanh);
        }
        let place = row * out.stride(0) + column * out.stride(1);
        out[place] = F::cast_from(result);
    }
}

/// `u = sqrt(2 / pi) * (x + 0.044715 * x^3)`.
#[cube]
fn bent(x: f32) -> f32 {
    x * (x * x * CUBIC + 1.0) * ROOT_TWO_BY_PI
}

/// What GELU multiplies a value with: how much of the normal distribution lies below it, or `(1 + tanh(u)) / 2`.
#[cube]
fn share(x: f32, #[comptime] tanh: bool) -> f32 {
    let mut odd = f32::erf(x * ROOT_HALF);
    if comptime!(tanh) {
        odd = bent(x).tanh();
    }
    (odd + 1.0) * 0.5
}

/// Of `x * P(x)`, P being the normal distribution: `P(x) + x * P'(x)`. Of `x / 2 * (1 + tanh(u))`: half of
/// `1 + tanh(u) + x * (1 - tanh(u)^2) * u'`.
#[cube]
fn slope(x: f32, #[comptime] tanh: bool) -> f32 {
    let half = x * x * 0.5;
    let mut more = x * (-half).exp() * DENSITY;
    if comptime!(tanh) {
        let tanh = bent(x).tanh();
        let inner = (x * x * THRICE + 1.0) * ROOT_TWO_BY_PI;
        more = x * (1.0 - tanh * tanh) * inner * 0.5;
    }
    share(x, tanh) + more
}

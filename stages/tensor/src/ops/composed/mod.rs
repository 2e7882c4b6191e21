//! The operations written in burn's own: their definition.

mod attention;

use burn::tensor::{Device, Float, FloatDType, Int, Tensor, TensorData, activation};

use super::gather::Gather;
use super::{Dropout, Rotary};
use crate::host::send;
use crate::quant::{dequantised, is_quantised};

pub use attention::attention;

/// What follows a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// GELU with the exact error function.
    Gelu,
    /// GELU with tanh in the place of the error function: PyTorch's `approximate="tanh"`.
    GeluTanh,
}

/// A low-rank adapter (LoRA) of a linear layer.
#[derive(Clone)]
pub struct Adapter {
    /// `[in, rank]`.
    pub a: Tensor<2>,
    /// `[rank, out]`.
    pub b: Tensor<2>,
    /// Factor of the adapter's path: alpha / rank.
    pub scale: f64,
    /// Which inputs dropout sets to zero on the adapter's path.
    pub dropout: Option<Dropout>,
}

/// As [`super::linear`]. An adapter of another type than the layer (32-bit factors on a bf16 base) works in its own,
/// as PEFT's do.
pub fn linear(
    x: Tensor<2>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<2>>,
    adapter: Option<&Adapter>,
    activation: Activation,
) -> Tensor<2> {
    let mut y = x.clone().matmul(whole(weight, &x));
    if let Some(bias) = bias {
        y = y + bias.clone();
    }
    if let Some(adapter) = adapter {
        let (own, outer) = (adapter.a.dtype(), y.dtype());
        let x = x.cast(own);
        let input = match &adapter.dropout {
            Some(dropout) => dropout.on(x.dims(), &x.device()).drawn().apply(x.clone()),
            None => x,
        };
        let path = input.matmul(adapter.a.clone()).matmul(adapter.b.clone()) * adapter.scale;
        y = (y.cast(own) + path).cast(outer);
    }
    activate(y, activation)
}

/// A layer's weight, dequantised where it is quantised, beside the layer's input.
fn whole(weight: &Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
    match (is_quantised(weight), x.is_autodiff()) {
        (false, _) => weight.clone(),
        (true, false) => dequantised(weight, x.dtype()),
        (true, true) => dequantised(weight, x.dtype()).autodiff(),
    }
}

pub(super) fn activate(x: Tensor<2>, activation: Activation) -> Tensor<2> {
    match activation {
        Activation::None => x,
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => activation::gelu_approximate(x),
    }
}

/// As [`super::convolve`].
pub fn convolve(patches: Tensor<2>, kernel: &Tensor<2>) -> Tensor<2> {
    patches.matmul(kernel.clone())
}

/// GELU by the error function, differentiable as it is defined. The derivative that burn has for its own is that of the
/// definition by tanh, which is off in the fourth digit.
fn gelu(x: Tensor<2>) -> Tensor<2> {
    let share = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0;
    x * share * 0.5
}

/// As [`super::tied_head`].
pub fn tied_head(x: Tensor<2>, embedding: &Tensor<2>) -> Tensor<2> {
    x.matmul(embedding.clone().transpose())
}

/// As [`super::layer_norm`].
pub fn layer_norm(x: Tensor<2>, scale: &Tensor<2>, shift: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    centred / (variance + epsilon).sqrt() * scale.clone() + shift.clone()
}

/// As [`super::rms_norm`]; the mean square is taken in 32 bits.
pub fn rms_norm(x: Tensor<2>, scale: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    let dtype = x.dtype();
    let x = x.cast(FloatDType::F32);
    let mean_square = (x.clone() * x.clone()).mean_dim(1);
    (x / (mean_square + epsilon).sqrt()).cast(dtype) * scale.clone()
}

/// As [`super::swiglu`].
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}

/// As [`super::rotate`].
pub fn rotate(x: Tensor<2>, rotary: &Rotary, heads: usize) -> Tensor<2> {
    let tables = rotary.tables(&x.device(), x.dtype());
    turned(x, tables, heads)
}

/// By angles whose cosines and sines are `[rows, 1, half]`.
pub(super) fn turned(x: Tensor<2>, [cos, sin]: [Tensor<3>; 2], heads: usize) -> Tensor<2> {
    let ([rows, width], half) = (x.dims(), cos.dims()[2]);
    let turned = x
        .clone()
        .slice([0..rows, 0..heads * 2 * half])
        .reshape([rows, heads, 2 * half]);
    let first = turned.clone().slice([0..rows, 0..heads, 0..half]);
    let second = turned.slice([0..rows, 0..heads, half..2 * half]);
    let turned = Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ],
        2,
    )
    .reshape([rows, heads * 2 * half]);
    if width == heads * 2 * half {
        return turned;
    }
    let rest = x.slice([0..rows, heads * 2 * half..width]);
    Tensor::cat(vec![turned, rest], 1)
}

/// As [`super::rotate_wide`].
pub fn rotate_wide(x: Tensor<2>, rotary: &Rotary, heads: usize) -> Tensor<2> {
    let dtype = x.dtype();
    rotate(x.cast(FloatDType::F32), rotary, heads).cast(dtype)
}

/// As [`super::take_rows`].
pub fn take_rows(x: Tensor<2>, indices: &[u32]) -> Tensor<2> {
    let places: Vec<Option<u32>> = indices.iter().copied().map(Some).collect();
    Gather::new(&places, x.dims()[0], &x.device()).take(x)
}

/// As [`super::token_logprobs`].
pub fn token_logprobs(logits: Tensor<2>, targets: &[u32], temperature: f64) -> Tensor<1> {
    let device = logits.device();
    let rows = targets.len();
    let targets = indices_tensor(targets, &device).reshape([rows, 1]);
    activation::log_softmax(logits.cast(FloatDType::F32) / temperature, 1)
        .gather(1, targets)
        .reshape([rows])
}

/// As [`super::entropy`].
pub fn entropy(logits: Tensor<2>, temperature: f64) -> Tensor<1> {
    let rows = logits.dims()[0];
    let logprobs = activation::log_softmax(logits.cast(FloatDType::F32) / temperature, 1);
    // A token that cannot come has no part in it: 0 times minus infinity is no number.
    (logprobs.clone().exp() * logprobs.clamp_min(f32::MIN))
        .sum_dim(1)
        .neg()
        .reshape([rows])
}

/// As [`super::squares_of_rows`].
pub fn squares_of_rows(x: Tensor<2>) -> Tensor<1> {
    let rows = x.dims()[0];
    x.cast(FloatDType::F32)
        .powi_scalar(2)
        .sum_dim(1)
        .reshape([rows])
}

/// As [`super::weighted_sum`].
pub fn weighted_sum(x: Tensor<1>, weights: &[f32]) -> Tensor<1> {
    let weights = TensorData::new(weights.to_vec(), [weights.len()]);
    let products = x.clone().cast(FloatDType::F32) * send::<1, Float>(weights, &x.device());
    let count = products.dims()[0];
    total(products.reshape([1, count]))
}

/// As [`super::sent_back`].
pub fn sent_back(x: Tensor<2>, gradient: Tensor<2>) -> Tensor<1> {
    total(x * gradient.autodiff())
}

/// Sum of each row: `[rows, width]` to `[rows]`.
pub fn sums_of_rows(x: Tensor<2>) -> Tensor<1> {
    let rows = x.dims()[0];
    x.sum_dim(1).reshape([rows])
}

/// Sum of all numbers. Burn's own adds them up in no fixed order on a GPU.
pub fn total(x: Tensor<2>) -> Tensor<1> {
    let rows = x.dims()[0];
    x.sum_dim(1).reshape([1, rows]).sum_dim(1).reshape([1])
}

/// As [`super::mean_of_rows`].
pub fn mean_of_rows(x: Tensor<2>, rows: usize) -> Tensor<2> {
    let [all, width] = x.dims();
    let stretches = x.reshape([all / rows, rows, width]);
    stretches.mean_dim(1).reshape([all / rows, width])
}

fn indices_tensor(indices: &[u32], device: &Device) -> Tensor<1, Int> {
    let indices: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
    let length = indices.len();
    send(TensorData::new(indices, [length]), device)
}

//! A step of AdamW on one weight: as tensor operations, and on devices with kernels of their own as one pass.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod device;

use burn::tensor::Tensor;

/// What a step multiplies with, the same for all numbers of a weight:
/// `value * keep`, `first` and `second` towards the gradient and its square, then
/// `value -= step * first / (sqrt(second) / root + eps)`, in torch's order of operations.
#[derive(Clone, Copy, Debug)]
pub struct AdamWFactors {
    /// What the gradient is multiplied with: clipping to a norm.
    pub clip: f32,
    /// What is left of the weight after its decay.
    pub keep: f32,
    /// How far the first moment goes towards the gradient: `1 - beta1`.
    pub first: f32,
    /// How far the second goes towards its square, and what is kept of it: `1 - beta2` and `beta2`.
    pub second: f32,
    /// See `second`.
    pub second_keep: f32,
    /// Learning rate over the correction of the first moment.
    pub step: f32,
    /// Square root of the correction of the second.
    pub root: f32,
    /// Added to the denominator.
    pub eps: f32,
}

/// A weight in 32 bits, with its first and second moment.
pub type Weight = [Tensor<2>; 3];

/// One step on a weight, its moments and its gradient, all in 32 bits and of one shape. Their memory is used again where
/// nothing else holds it.
pub fn adamw(weight: Weight, gradient: Tensor<2>, factors: &AdamWFactors) -> Weight {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if !crate::host::on_host(&gradient) {
        return device::adamw(weight, gradient, factors);
    }
    composed(weight, gradient, factors)
}

/// As [`adamw`], in burn's own operations.
pub fn composed(weight: Weight, gradient: Tensor<2>, factors: &AdamWFactors) -> Weight {
    let [value, first, second] = weight;
    let gradient = gradient.mul_scalar(factors.clip);
    let first = first.clone() + (gradient.clone() - first).mul_scalar(factors.first);
    let second =
        second.mul_scalar(factors.second_keep) + gradient.powi_scalar(2).mul_scalar(factors.second);
    let denominator = second
        .clone()
        .sqrt()
        .div_scalar(factors.root)
        .add_scalar(factors.eps);
    let value =
        value.mul_scalar(factors.keep) - first.clone().mul_scalar(factors.step) / denominator;
    [value, first, second]
}

//! A step of AdamW on one weight: as tensor operations, and on devices with kernels of their own as one pass.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod device;
mod factors;

use burn::tensor::Tensor;

pub use factors::{AdamWFactors, Weight};

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

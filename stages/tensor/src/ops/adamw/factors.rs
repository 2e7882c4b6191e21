//! What a step is made of.

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

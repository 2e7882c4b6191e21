//! The operations on the CPU device, each as one step of burn's autodiff graph: a fused loop forward, a
//! handwritten gradient backward.
//!
//! All take tensors of the CPU device in 32 bits. They give the numbers of [`super::composed`] up to rounding. A gradient that no parent asks for is not
//! computed.

mod attention;
mod exp;
mod gate;
mod linear;
mod logprobs;
mod norm;
mod rms;
mod rotary;
mod rows;
mod sums;
mod tied;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Tensor, TensorData};

pub(super) use attention::attention;
pub(super) use exp::exp;
pub(super) use gate::swiglu;
pub(super) use linear::{Weight, convolve, linear};
pub(super) use logprobs::token_logprobs;
pub(super) use norm::layer_norm;
pub(super) use rms::rms_norm;
pub(super) use rotary::rotate;
pub(super) use rows::take_rows;
pub(super) use sums::{entropy, mean_of_rows, sent_back, squares_of_rows, weighted_sum};
pub(super) use tied::tied_head;

use super::graph::{self, record};

/// A tensor of the CPU device.
type Flat = FloatTensor<Flex>;

/// A tensor that goes into an operation.
type Input = graph::Input<Flex>;

impl Input {
    /// The values in one piece of memory, shared and not copied where they are already.
    fn contiguous(&self) -> Flat {
        match self {
            Self::Plain(tensor) => tensor.to_contiguous(),
            Self::Tracked(tensor) => tensor.primitive().to_contiguous(),
        }
    }
}

/// Calls `f` with the values of a tensor of the CPU device in 32 bits, where they are: nothing is copied.
pub(super) fn with_values<T>(tensor: Tensor<2>, f: impl FnOnce(&[f32]) -> T) -> T {
    f(values(&Input::new(tensor).contiguous()))
}

/// The values of a contiguous tensor.
fn values(tensor: &Flat) -> &[f32] {
    tensor.as_slice().expect("contiguous 32-bit floats")
}

fn new<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Flat {
    Flat::from_data(TensorData::new(values, shape))
}

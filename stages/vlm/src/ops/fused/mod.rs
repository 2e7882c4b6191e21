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

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{Tensor, TensorData};

pub(super) use attention::attention;
pub(super) use exp::exp;
pub(super) use gate::swiglu;
pub(super) use linear::{convolve, linear};
pub(super) use logprobs::token_logprobs;
pub(super) use norm::layer_norm;
pub(super) use rms::rms_norm;
pub(super) use rotary::rotate;
pub(super) use rows::take_rows;
pub(super) use sums::{entropy, mean_of_rows, sent_back, squares_of_rows, weighted_sum};
pub(super) use tied::tied_head;

/// A tensor of the CPU device.
type Flat = FloatTensor<Flex>;

/// The same with its place in the autodiff graph.
type Tracked = FloatTensor<Autodiff<Flex>>;

/// The primitive behind a tensor of the CPU device.
fn open<const D: usize>(tensor: Tensor<D>) -> Tracked {
    let opened = tensor.autodiff().try_into_primitive::<Autodiff<Flex>>();
    opened.expect("a tensor of the CPU device has the CPU device's primitive")
}

/// The tensor around a primitive; without autodiff if `plain`.
fn close<const D: usize>(tensor: Tracked, plain: bool) -> Tensor<D> {
    let tensor = Tensor::from_primitive::<Autodiff<Flex>>(tensor);
    if plain { tensor.inner() } else { tensor }
}

/// The tensor's values in one piece of memory, shared and not copied where they are already.
fn contiguous(tensor: &Tracked) -> Flat {
    tensor.primitive().to_contiguous()
}

/// The values of a contiguous tensor.
fn values(tensor: &Flat) -> &[f32] {
    tensor.as_slice().expect("contiguous 32-bit floats")
}

fn new<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Flat {
    Flat::from_data(TensorData::new(values, shape))
}

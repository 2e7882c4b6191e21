//! The operations on the CPU device, each as one step of burn's autodiff graph: a fused loop forward, a
//! handwritten gradient backward.
//!
//! They give the numbers of [`super::composed`] up to rounding. A gradient that no parent asks for is not
//! computed.

mod attention;
mod gate;
mod linear;
mod logprobs;
mod norm;
mod rms;
mod rotary;
mod rows;
mod tied;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Device, Tensor, TensorData};

pub(super) use attention::attention;
pub(super) use gate::swiglu;
pub(super) use linear::{convolve, linear};
pub(super) use logprobs::token_logprobs;
pub(super) use norm::layer_norm;
pub(super) use rms::rms_norm;
pub(super) use rotary::rotate;
pub(super) use rows::take_rows;
pub(super) use tied::tied_head;

/// A tensor of the CPU device.
type Flat = FloatTensor<Flex>;

/// The same with its place in the autodiff graph.
type Tracked = FloatTensor<Autodiff<Flex>>;

/// Whether the fused operations can take this tensor.
pub(super) fn can_take(tensor: &Tensor<2>) -> bool {
    tensor.device() == Device::flex() && tensor.dtype() == DType::F32
}

/// The primitive behind a tensor for which [`can_take`] holds, in one piece of memory.
fn open(tensor: Tensor<2>) -> Tracked {
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

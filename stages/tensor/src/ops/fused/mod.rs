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

use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::ops::{Backward, OpsKind};
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

/// A tensor that goes into an operation.
enum Input {
    /// Without a place in the autodiff graph.
    Plain(Flat),
    /// With one.
    Tracked(Tracked),
}

impl Input {
    /// The primitive behind a tensor of the CPU device.
    fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        const HERE: &str = "a tensor of the CPU device has the CPU device's primitive";
        match tensor.is_autodiff() {
            true => Self::Tracked(tensor.try_into_primitive::<Autodiff<Flex>>().expect(HERE)),
            false => Self::Plain(tensor.try_into_primitive::<Flex>().expect(HERE)),
        }
    }

    /// The values in one piece of memory, shared and not copied where they are already.
    fn contiguous(&self) -> Flat {
        match self {
            Self::Plain(tensor) => tensor.to_contiguous(),
            Self::Tracked(tensor) => tensor.primitive().to_contiguous(),
        }
    }

    /// A gradient is asked for, of the tensor or of what it was computed from.
    fn asks(&self) -> bool {
        matches!(self, Self::Tracked(tensor) if tensor.is_tracked())
    }

    fn tracked(self) -> Tracked {
        match self {
            Self::Plain(tensor) => Tracked::new(tensor),
            Self::Tracked(tensor) => tensor,
        }
    }
}

/// The tensor of an operation's result `out`. The operation becomes a step of the autodiff graph, with its `state`, where
/// an input asks for a gradient; where none does, nothing is kept.
fn record<O, const N: usize, const D: usize>(
    operation: O,
    inputs: [Input; N],
    out: Flat,
    state: impl FnOnce() -> O::State,
) -> Tensor<D>
where
    O: Backward<Flex, N>,
{
    if !inputs.iter().any(Input::asks) {
        let plain = inputs.iter().all(|input| matches!(input, Input::Plain(_)));
        let out = Tensor::from_primitive::<Flex>(out);
        return if plain { out } else { out.autodiff() };
    }
    let inputs = inputs.map(Input::tracked);
    let nodes = inputs.each_ref().map(Tracked::node);
    let prepared = operation.prepare::<NoCheckpointing>(nodes).compute_bound();
    Tensor::from_primitive::<Autodiff<Flex>>(match prepared.stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state(), out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    })
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

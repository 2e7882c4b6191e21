//! Operations with gradients of their own, as steps of burn's autodiff graph.

use std::fmt::Debug;
use std::marker::PhantomData;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use burn::backend::Cube;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex};
use burn::tensor::Tensor;

use crate::host::on_host;

/// A tensor with its place in the autodiff graph.
type Tracked<B> = FloatTensor<Autodiff<B>>;

/// Where tensors are: the CPU device or another.
pub(super) trait Place: Backend {
    /// The primitive of a tensor that has no place in the autodiff graph.
    fn plain<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Self>;
    /// The primitive of a tensor that has one.
    fn tracked<const D: usize>(tensor: Tensor<D>) -> Tracked<Self>;
    fn tensor<const D: usize>(primitive: FloatTensor<Self>) -> Tensor<D>;
    fn tracked_tensor<const D: usize>(primitive: Tracked<Self>) -> Tensor<D>;
}

macro_rules! place {
    ($backend:ident) => {
        impl Place for $backend {
            fn plain<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Self> {
                tensor.try_into_primitive::<Self>().expect(HERE)
            }

            fn tracked<const D: usize>(tensor: Tensor<D>) -> Tracked<Self> {
                tensor.try_into_primitive::<Autodiff<Self>>().expect(HERE)
            }

            fn tensor<const D: usize>(primitive: FloatTensor<Self>) -> Tensor<D> {
                Tensor::from_primitive::<Self>(primitive)
            }

            fn tracked_tensor<const D: usize>(primitive: Tracked<Self>) -> Tensor<D> {
                Tensor::from_primitive::<Autodiff<Self>>(primitive)
            }
        }
    };
}

const HERE: &str = "a tensor has the primitive of the device that it is on";

place!(Flex);
#[cfg(any(feature = "cuda", feature = "wgpu"))]
place!(Cube);

/// Without its place in the autodiff graph.
pub(super) fn plain<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.is_autodiff() {
        true => tensor.inner(),
        false => tensor,
    }
}

/// A gradient is asked for, of a tensor or of what it was computed from.
pub(super) fn asks<const D: usize>(tensor: &Tensor<D>) -> bool {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if !on_host(tensor) {
        return Input::<Cube>::new(tensor.clone()).asks();
    }
    Input::<Flex>::new(tensor.clone()).asks()
}

/// A tensor that goes into an operation.
pub(super) enum Input<B: Place> {
    /// Without a place in the autodiff graph.
    Plain(FloatTensor<B>),
    /// With one.
    Tracked(Tracked<B>),
}

impl<B: Place> Input<B> {
    pub(super) fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        match tensor.is_autodiff() {
            true => Self::Tracked(B::tracked(tensor)),
            false => Self::Plain(B::plain(tensor)),
        }
    }

    /// A gradient is asked for, of the tensor or of what it was computed from.
    pub(super) fn asks(&self) -> bool {
        matches!(self, Self::Tracked(tensor) if tensor.is_tracked())
    }

    fn into_tracked(self) -> Tracked<B> {
        match self {
            Self::Plain(tensor) => Tracked::<B>::new(tensor),
            Self::Tracked(tensor) => tensor,
        }
    }
}

/// The tensor of an operation's result `out`. The operation becomes a step of the autodiff graph, with its `state`, where
/// an input asks for a gradient; where none does, nothing is kept.
pub(super) fn record<B, O, const N: usize, const D: usize>(
    operation: O,
    inputs: [Input<B>; N],
    out: FloatTensor<B>,
    state: impl FnOnce() -> O::State,
) -> Tensor<D>
where
    B: Place,
    O: Backward<B, N>,
{
    if !inputs.iter().any(Input::asks) {
        let plain = inputs.iter().all(|input| matches!(input, Input::Plain(_)));
        let out = B::tensor(out);
        return if plain { out } else { out.autodiff() };
    }
    let inputs = inputs.map(Input::into_tracked);
    let nodes = inputs.each_ref().map(Tracked::<B>::node);
    let prepared = operation.prepare::<NoCheckpointing>(nodes).compute_bound();
    B::tracked_tensor(match prepared.stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state(), out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    })
}

/// An operation whose gradients are made of tensors, so that it runs on every device: what it keeps for them.
pub(super) trait Rule<const N: usize>: Clone + Debug + Send + 'static {
    /// The gradients of the inputs from that of the output; none of one that `asked` says nobody asks for.
    fn gradients(self, grad: Tensor<2>, asked: [bool; N]) -> [Option<Tensor<2>>; N];
}

/// As [`record`], for an operation whose gradients are made of tensors; `out` has no place in the graph.
pub(super) fn record_rule<R: Rule<N>, const N: usize>(
    inputs: [Tensor<2>; N],
    out: Tensor<2>,
    rule: impl FnOnce() -> R,
) -> Tensor<2> {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if !on_host(&out) {
        return record_at::<Cube, R, N>(inputs, out, rule);
    }
    debug_assert!(on_host(&out), "this build has no other device");
    record_at::<Flex, R, N>(inputs, out, rule)
}

fn record_at<B: Place, R: Rule<N>, const N: usize>(
    inputs: [Tensor<2>; N],
    out: Tensor<2>,
    rule: impl FnOnce() -> R,
) -> Tensor<2> {
    let operation = Step::<R>(PhantomData);
    record::<B, _, N, 2>(operation, inputs.map(Input::new), B::plain(out), rule)
}

#[derive(Debug)]
struct Step<R>(PhantomData<fn() -> R>);

impl<B: Place, R: Rule<N>, const N: usize> Backward<B, N> for Step<R> {
    type State = R;

    fn backward(self, ops: Ops<R, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::tensor(grads.consume::<B>(&ops.node));
        let asked = ops.parents.each_ref().map(Option::is_some);
        let gradients = ops.state.gradients(grad, asked);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, B::plain(gradient));
            }
        }
    }
}

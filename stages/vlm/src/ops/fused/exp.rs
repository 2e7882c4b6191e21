//! The exponential function.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;

use super::{Flat, close, contiguous, new, open, values};

#[derive(Debug)]
struct Exp;

/// In double precision by `libm`, whose bits do not depend on the machine, and rounded once.
pub(in crate::ops) fn exp(x: Tensor<1>) -> Tensor<1> {
    let plain = !x.is_autodiff();
    let x = open(x);
    let data = contiguous(&x);
    let out: Vec<f32> = values(&data)
        .iter()
        .map(|&x| libm::exp(f64::from(x)) as f32)
        .collect();
    let count = out.len();
    let out = new(out, [count]);
    let out = match Exp
        .prepare::<NoCheckpointing>([x.node()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prepared) => prepared.finish(out.clone(), out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    };
    close(out, plain)
}

impl Backward<Flex, 1> for Exp {
    /// The result.
    type State = Flat;

    fn backward(self, ops: Ops<Flat, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [node] = ops.parents;
        let Some(node) = node else { return };
        let pairs = values(&grad).iter().zip(values(&ops.state));
        let out: Vec<f32> = pairs.map(|(grad, value)| grad * value).collect();
        let count = out.len();
        grads.register::<Flex>(node.id, new(out, [count]));
    }
}

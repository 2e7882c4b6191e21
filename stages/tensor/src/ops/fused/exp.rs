//! The exponential function.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::Tensor;

use super::{Flat, Input, new, record, values};

#[derive(Debug)]
struct Exp;

/// In double precision by `libm`, whose bits do not depend on the machine, and rounded once.
pub(in crate::ops) fn exp(x: Tensor<1>) -> Tensor<1> {
    let x = Input::new(x);
    let data = x.contiguous();
    let out: Vec<f32> = values(&data)
        .iter()
        .map(|&x| libm::exp(f64::from(x)) as f32)
        .collect();
    let count = out.len();
    let out = new(out, [count]);
    let kept = out.clone();
    record(Exp, [x], out, || kept)
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

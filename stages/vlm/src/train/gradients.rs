//! Gradients of the trainable weights, summed over the micro-batches of a step, in 32 bits whatever the weights are.

use burn::tensor::{DType, Gradients, Tensor};
use dcsft_tensor::params::ParamSet;

use crate::model::Tape;

/// One entry per trainable weight, in the order of the sets.
#[derive(Default)]
pub(crate) struct GradientSum(Vec<Option<Tensor<2>>>);

impl GradientSum {
    /// Zero for `sets`.
    pub(crate) fn zero(sets: &[&ParamSet]) -> Self {
        Self(trainable(sets).map(|_| None).collect())
    }

    /// Adds the gradients of one backward pass.
    pub(crate) fn add(&mut self, sets: &[&ParamSet], mut gradients: Gradients) {
        for (sum, value) in self.0.iter_mut().zip(trainable(sets)) {
            *sum = added(sum.take(), value.grad_remove(&mut gradients));
        }
    }

    /// Adds the gradients of another part of the batch.
    pub(crate) fn join(&mut self, other: Self) {
        for (sum, gradient) in self.0.iter_mut().zip(other.0) {
            *sum = added(sum.take(), gradient);
        }
    }

    /// Differentiates `loss` and adds its gradients; where the forward pass kept a tape, `logits` is the leaf that it
    /// gave out, and their gradient is sent on through the tape.
    pub(crate) fn backward(
        &mut self,
        sets: &[&ParamSet],
        loss: Tensor<1>,
        logits: &Tensor<2>,
        tape: Option<Box<dyn Tape + '_>>,
    ) {
        let mut gradients = loss.backward();
        if let Some(tape) = tape
            && let Some(pull) = logits.grad_remove(&mut gradients)
        {
            tape.backward(pull, &mut |gradients| self.add(sets, gradients));
        }
        self.add(sets, gradients);
    }

    pub(crate) fn into_inner(self) -> Vec<Option<Tensor<2>>> {
        self.0
    }
}

/// A gradient that nothing is added to stays as it is.
fn added(sum: Option<Tensor<2>>, gradient: Option<Tensor<2>>) -> Option<Tensor<2>> {
    let wide = |tensor: Tensor<2>| match tensor.dtype() {
        DType::F32 => tensor,
        _ => tensor.cast(DType::F32),
    };
    match (sum, gradient) {
        (Some(sum), Some(gradient)) => Some(wide(sum) + wide(gradient)),
        (sum, gradient) => sum.or(gradient),
    }
}

fn trainable<'a>(sets: &'a [&ParamSet]) -> impl Iterator<Item = &'a Tensor<2>> {
    sets.iter()
        .flat_map(|set| set.iter())
        .filter(|param| param.trainable)
        .map(|param| &param.value)
}

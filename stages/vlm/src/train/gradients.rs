//! Gradients of the trainable weights, summed over the micro-batches of a step, in 32 bits whatever the weights are.

use burn::tensor::{DType, Device, Gradients, Tensor};
use dcsft_tensor::host::bring;
use dcsft_tensor::params::ParamSet;

use crate::model::Tape;

/// Takes gradients as they are computed, part after part.
pub(crate) trait Gather {
    /// Takes the next gradient of the trainable weight with this index, in the order of the sets.
    fn take(&mut self, index: usize, gradient: Tensor<2>);

    /// Takes the gradients of one backward pass.
    fn add(&mut self, sets: &[&ParamSet], mut gradients: Gradients) {
        for (index, value) in trainable(sets).enumerate() {
            if let Some(gradient) = value.grad_remove(&mut gradients) {
                self.take(index, gradient);
            }
        }
    }

    /// Takes the gradients of another part of the batch.
    fn join(&mut self, other: GradientSum) {
        for (index, gradient) in other.0.into_iter().enumerate() {
            if let Some(gradient) = gradient {
                self.take(index, gradient);
            }
        }
    }

    /// Differentiates `loss` and takes its gradients; where the forward pass kept a tape, `logits` is the leaf that it
    /// gave out, and their gradient is sent on through the tape.
    fn backward(
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
}

/// One entry per trainable weight, in the order of the sets.
pub(crate) struct GradientSum(Vec<Option<Tensor<2>>>);

impl GradientSum {
    /// Zero for `sets`.
    pub(crate) fn zero(sets: &[&ParamSet]) -> Self {
        Self(trainable(sets).map(|_| None).collect())
    }

    pub(crate) fn into_inner(self) -> Vec<Option<Tensor<2>>> {
        self.0
    }
}

impl Gather for GradientSum {
    /// A gradient that nothing is added to stays as it is.
    fn take(&mut self, index: usize, gradient: Tensor<2>) {
        let wide = |tensor: Tensor<2>| match tensor.dtype() {
            DType::F32 => tensor,
            _ => tensor.cast(DType::F32),
        };
        let sum = &mut self.0[index];
        *sum = Some(match sum.take() {
            Some(sum) => wide(sum) + wide(gradient),
            None => gradient,
        });
    }
}

/// What another device adds to a sum, one by one and in order: so the sum is the one that it would be if the first device
/// had computed it all.
#[derive(Default)]
pub(crate) struct Summands(Vec<(usize, Tensor<2>)>);

impl Summands {
    /// Adds them to `sum`, where the weights of `sets` are.
    pub(crate) fn add_to(self, sum: &mut GradientSum, sets: &[&ParamSet]) {
        let places: Vec<Device> = trainable(sets).map(Tensor::device).collect();
        for (index, gradient) in self.0 {
            sum.take(index, bring(gradient, &places[index]));
        }
    }
}

impl Gather for Summands {
    fn take(&mut self, index: usize, gradient: Tensor<2>) {
        self.0.push((index, gradient));
    }
}

fn trainable<'a>(sets: &'a [&ParamSet]) -> impl Iterator<Item = &'a Tensor<2>> {
    sets.iter()
        .flat_map(|set| set.iter())
        .filter(|param| param.trainable)
        .map(|param| &param.value)
}

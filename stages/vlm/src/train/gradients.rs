//! Gradients of the trainable weights, summed over the micro-batches of a step.

use burn::tensor::{Gradients, Tensor};

use crate::params::ParamSet;

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
            *sum = match (sum.take(), value.grad_remove(&mut gradients)) {
                (Some(sum), Some(gradient)) => Some(sum + gradient),
                (sum, gradient) => sum.or(gradient),
            };
        }
    }

    pub(crate) fn into_inner(self) -> Vec<Option<Tensor<2>>> {
        self.0
    }
}

fn trainable<'a>(sets: &'a [&ParamSet]) -> impl Iterator<Item = &'a Tensor<2>> {
    sets.iter()
        .flat_map(|set| set.iter())
        .filter(|param| param.trainable)
        .map(|param| &param.value)
}

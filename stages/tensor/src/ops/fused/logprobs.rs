//! Log-probabilities of given tokens.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::Tensor;

use super::{Input, new, record, values};
use crate::kernels::exp_in_place;

#[derive(Debug)]
struct TokenLogprobs;

#[derive(Clone, Debug)]
struct State {
    /// `softmax(logits / temperature)`: `[rows, vocab]`.
    probabilities: Arc<[f32]>,
    targets: Arc<[u32]>,
    inverse_temperature: f32,
}

pub(in crate::ops) fn token_logprobs(
    logits: Tensor<2>,
    targets: &[u32],
    temperature: f64,
) -> Tensor<1> {
    let [_, vocab] = logits.dims();
    let inverse_temperature = (1.0 / temperature) as f32;
    let logits = Input::new(logits);
    let data = logits.contiguous();
    let mut probabilities = values(&data).to_vec();
    let mut out = Vec::with_capacity(targets.len());
    for (row, &target) in probabilities.chunks_exact_mut(vocab).zip(targets) {
        let logit = row[target as usize];
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total = exp_in_place(row, largest, inverse_temperature);
        for weight in row {
            *weight /= total;
        }
        out.push((logit - largest) * inverse_temperature - libm::log(f64::from(total)) as f32);
    }
    let out = new(out, [targets.len()]);
    record(TokenLogprobs, [logits], out, || State {
        probabilities: probabilities.into(),
        targets: targets.into(),
        inverse_temperature,
    })
}

impl Backward<Flex, 1> for TokenLogprobs {
    type State = State;

    /// `(1 at the target - probability) * grad / temperature`.
    fn backward(self, ops: Ops<State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let State {
            probabilities,
            targets,
            inverse_temperature,
        } = ops.state;
        let [node] = ops.parents;
        let Some(node) = node else { return };
        let vocab = probabilities.len() / targets.len().max(1);
        let mut out = probabilities.to_vec();
        for ((row, &target), &grad) in out
            .chunks_exact_mut(vocab.max(1))
            .zip(&*targets)
            .zip(values(&grad))
        {
            let factor = -grad * inverse_temperature;
            for value in row.iter_mut() {
                *value *= factor;
            }
            row[target as usize] -= factor;
        }
        grads.register::<Flex>(node.id, new(out, [targets.len(), vocab]));
    }
}

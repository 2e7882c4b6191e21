//! Losses and gradients of a model on sequences, in the reference's names and layouts.

use std::collections::BTreeMap;

use burn::tensor::{Gradients, Tensor};
use dcsft_models::{HubModel, Sequence};
use dcsft_tensor::ops::token_logprobs;
use dcsft_tensor::params::Param;
use dcsft_vlm::model::{Forward, VisionLanguageModel as _};

use super::compare::{transposed, values};

/// The mean of `-log p` over all labels, and its gradients in the order of the model's trainable weights.
pub(crate) fn loss_and_gradients(
    model: &HubModel,
    sequences: &[Sequence],
    checkpointing: bool,
) -> (f64, Vec<Option<Tensor<2>>>) {
    let options = Forward {
        dropout: None,
        checkpointing,
    };
    let (output, targets) = model.labelled(sequences, &options);
    let logits = output.logits.clone();
    let loss = token_logprobs(output.logits, &targets, 1.0).mean().neg();
    let value = f64::from(values(loss.clone())[0]);
    let mut sum = vec![None; trainable(model).count()];
    let mut gradients = loss.backward();
    if let Some(tape) = output.tape {
        let pull = logits
            .grad_remove(&mut gradients)
            .expect("the logits are a leaf");
        tape.backward(pull, &mut |gradients| add(model, gradients, &mut sum));
    }
    add(model, gradients, &mut sum);
    (value, sum)
}

pub(crate) fn trainable(model: &HubModel) -> impl Iterator<Item = &Param> {
    model.params().iter().filter(|param| param.trainable)
}

/// Adds the gradients of one backward pass.
pub(crate) fn add(model: &HubModel, mut gradients: Gradients, sum: &mut [Option<Tensor<2>>]) {
    for (param, sum) in trainable(model).zip(sum) {
        *sum = match (sum.take(), param.value.grad_remove(&mut gradients)) {
            (Some(sum), Some(gradient)) => Some(sum + gradient),
            (sum, gradient) => sum.or(gradient),
        };
    }
}

/// A weight or its gradient as the reference stores it.
pub(crate) fn in_file_layout(param: &Param, value: Tensor<2>) -> Vec<f32> {
    let [rows, columns] = value.dims();
    let tables = [
        "embed_tokens.weight",
        "position_embedding.weight",
        "pos_embed.weight",
    ];
    let plain = rows == 1 || tables.iter().any(|table| param.name.ends_with(table));
    let values = values(value);
    if plain {
        values
    } else {
        transposed(&values, columns)
    }
}

/// Gradients by the names of the weights.
pub(crate) fn by_name(
    model: &HubModel,
    gradients: &[Option<Tensor<2>>],
) -> BTreeMap<String, Vec<f32>> {
    trainable(model)
        .zip(gradients)
        .filter_map(|(param, gradient)| {
            Some((param.name.clone(), in_file_layout(param, gradient.clone()?)))
        })
        .collect()
}

/// The L2 norm of some numbers.
pub(crate) fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|&value| f64::from(value).powi(2))
        .sum::<f64>()
        .sqrt()
}

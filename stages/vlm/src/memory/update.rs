//! What an update of the weights takes.

use super::footprint::{Batch, F32, Footprint, activation};
use super::process::CLASSES;
use super::step::Step;
use super::trained::Training;
use crate::lora::LoraConfig;
use crate::model::LOGITS_AT_ONCE;

/// One update of the weights.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The samples of one forward pass.
    pub batch: Batch,
    /// What is trained.
    pub training: Training<'a>,
    /// Only what goes into each step is kept.
    pub checkpointing: bool,
    /// Several forward passes make one update.
    pub accumulates: bool,
    /// What the optimiser keeps is in the machine's memory, wherever the weights are.
    pub offload: bool,
    /// How often the loss keeps a matrix `[answer tokens, vocabulary]`, and how many more it holds while it is
    /// differentiated.
    pub loss: [f64; 2],
}

/// Bytes of training, without process and data.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peak {
    /// Of what a pass keeps for its backward pass.
    pub activations: f64,
    /// Of all that is alive at the fullest moment.
    pub peak: f64,
}

/// The loss on supervised answers holds the logits and their softmax; a copy of these while they are made, and their
/// gradient on the way back.
pub const SFT_LOSS: [f64; 2] = [2.0, 2.0];
/// GRPO's differentiates in the logits first, and sends the product with that gradient through the model.
pub const GRPO_LOSS: [f64; 2] = [2.0, 3.0];

/// The fullest moment of training: reading the model, an update, or writing a checkpoint.
pub fn train(model: &dyn Footprint, update: &Update<'_>, adapted: Option<&LoraConfig>) -> Peak {
    let lora = update.training.lora;
    let trained = model.trained(update.training);
    let weights = model.weights(lora);
    let moments = match update.offload && update.batch.on_gpu {
        true => 0.0,
        false => (2.0 * F32 + master(model, update)) * trained,
    };
    // They are added up in 32 bits.
    let earlier = if update.accumulates {
        F32 * trained
    } else {
        0.0
    };
    let pass = pass(model, update);
    let updating = weights + moments + earlier + CLASSES * pass.peak;
    // Files are read and written in the machine's memory; one tensor is written at a time.
    let [loading, saving] = match update.batch.on_gpu {
        true => [0.0, 0.0],
        false => [model.loading(), model.saving(lora.is_some())],
    };
    let reading = model.weights(adapted) + loading;
    let saving = weights + moments + saving;
    Peak {
        activations: pass.activations,
        peak: reading.max(updating).max(saving),
    }
}

/// Bytes that the optimiser keeps of the 32-bit value of a trained weight, where the model has 16 of them: the other two
/// on the CPU, the value itself on a GPU.
fn master(model: &dyn Footprint, update: &Update<'_>) -> f64 {
    match (
        update.training.lora,
        model.number() < F32,
        update.batch.on_gpu,
    ) {
        (None, true, true) => F32,
        (None, true, false) => F32 - model.number(),
        _ => 0.0,
    }
}

/// The loss after the model's steps; a value of activations has so many bytes.
fn loss_step(model: &dyn Footprint, update: &Update<'_>, activation: f64) -> Step {
    let batch = &update.batch;
    let matrix = batch.answer_tokens() * model.vocabulary();
    let [kept, backward] = update.loss;
    // A GPU keeps no softmax: it has one in 32 bits for a moment, on the way back with the target and the difference.
    let [kept, forward, backward] = match batch.on_gpu {
        false => [kept, 1.0, backward],
        true => {
            let wide = F32 / activation;
            [kept - 1.0, 2.0 * wide, backward - 1.0 + 3.0 * wide]
        }
    };
    let answer = batch.tokens.answer * model.vocabulary();
    let at_once = answer.max(LOGITS_AT_ONCE as f64);
    match batch.on_gpu && matrix > at_once {
        false => Step {
            input: matrix,
            kept: kept * matrix,
            forward: forward * matrix,
            backward: backward * matrix,
            gradient: 0.0,
        },
        // Part by part there and back, and nothing of them is kept.
        true => Step {
            forward: (1.0 + kept + forward.max(backward)) * at_once,
            ..Step::default()
        },
    }
}

/// A forward and a backward pass: what they hold besides weights and moments.
fn pass(model: &dyn Footprint, update: &Update<'_>) -> Peak {
    let batch = &update.batch;
    let mut steps = model.steps(batch, Some(update.training));
    let activation = activation(model, batch.on_gpu);
    steps.push(loss_step(model, update, activation));
    // Below the first step that trains, nothing is kept and no gradient is sent.
    let lowest = steps.iter().position(|step| step.gradient > 0.0);
    let lowest = lowest.unwrap_or(steps.len());
    // The CPU's operations keep weights of 16 bits in 32 until they have been differentiated, but for quantised ones.
    let widened = match model.number() < activation {
        true => F32 * (model.parameters() - model.quantised()),
        false => 0.0,
    };
    let gradient = match update.training.lora {
        Some(_) => F32,
        None => model.number(),
    };
    let images = model.images(batch);
    let (mut held, mut most): (f64, f64) = (0.0, 0.0);
    for (index, step) in steps.iter().enumerate() {
        let inside = if index < lowest {
            step.input
        } else {
            step.kept
        };
        most = most.max((held + inside + step.forward + images) * activation);
        held += match (update.checkpointing, index < lowest) {
            (true, _) => step.input,
            (false, true) => 0.0,
            (false, false) => step.kept,
        };
    }
    let activations = held * activation;
    let mut gradients = 0.0;
    for step in steps[lowest..].iter().rev() {
        let again = if update.checkpointing { step.kept } else { 0.0 };
        gradients += step.gradient * gradient;
        most = most.max((held + again + step.backward) * activation + gradients);
        held -= if update.checkpointing {
            step.input
        } else {
            step.kept
        };
    }
    Peak {
        activations,
        peak: most + widened,
    }
}

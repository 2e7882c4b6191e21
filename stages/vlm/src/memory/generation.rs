//! What writing answers takes.

use dcsft_tensor::ops::KvCache;

use super::footprint::{Batch, Footprint, Tokens, activation};
use super::process::CLASSES;
use super::step::Step;
use crate::lora::LoraConfig;

/// Answers to a call of `questions` questions.
#[derive(Clone, Copy, Debug)]
pub struct Generation<'a> {
    /// Questions of one call.
    pub questions: f64,
    /// Answers to each.
    pub answers: f64,
    /// Of one question and one answer at its longest.
    pub tokens: Tokens,
    /// Threads that work.
    pub threads: f64,
    /// On a GPU one group is worked on at a time.
    pub on_gpu: bool,
    /// The adapters that the model carries.
    pub adapters: Option<&'a LoraConfig>,
}

/// Bytes that writing answers takes besides the weights: the cache of keys and values, and the widest moment of
/// reading a group's images and questions.
pub fn generate(model: &dyn Footprint, asked: &Generation<'_>) -> f64 {
    let group = asked
        .questions
        .clamp(1.0, model.group(asked.on_gpu, &asked.tokens));
    let most = if asked.on_gpu {
        1.0
    } else {
        model.groups(asked.threads)
    };
    let groups = (asked.questions / group).ceil().clamp(1.0, most);
    let batch = Batch {
        questions: group,
        answers: 1.0,
        tokens: Tokens {
            answer: 1.0,
            ..asked.tokens
        },
        on_gpu: asked.on_gpu,
    };
    let steps = model.steps(&batch, None);
    let widest = |step: &Step| step.input + step.forward;
    let widest = steps.iter().map(widest).fold(0.0, f64::max) + model.images(&batch);
    let cached = model.cached_row();
    let rows = match asked.on_gpu {
        false => asked.tokens.answer,
        true => room(asked.tokens.answer),
    };
    let prompts = group * batch.question_rows() * cached;
    let answers = group * asked.answers * rows * cached;
    // Logits as the head gives them, read, and repeated for each answer.
    let logits = 3.0 * group * asked.answers * model.vocabulary();
    let waiting = group * model.waiting(&asked.tokens);
    let writing = prompts + (answers + logits + waiting).max(widest);
    let number = activation(model, asked.on_gpu);
    CLASSES * groups * writing * number + model.generating(asked.adapters)
}

/// Rows that a GPU's cache has room for once an answer has `rows`.
fn room(rows: f64) -> f64 {
    let mut room = KvCache::ROOM as f64;
    while room < rows {
        room *= 2.0;
    }
    room
}

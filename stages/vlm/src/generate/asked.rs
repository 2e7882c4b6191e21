//! What is asked for, and the answers that are being written.

use std::sync::Arc;

use dcsft_tensor::ops::Continuation;
use dcsft_tensor::rng::StreamKey;

/// What the loop needs to know of a prompt.
pub struct Asked {
    /// The sample's content ID: names the draws.
    pub id: Arc<str>,
    /// The prompt's tokens, for the repetition penalty.
    pub tokens: Arc<[u32]>,
    /// The position of the first answer token.
    pub position: usize,
    /// Tokens of an answer that the model's context has room for after the prompt, at least one.
    pub room: usize,
}

/// How many prompts are worked on together: each weight is read once for all of their answers. The answers do not depend
/// on it, but for a device's rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Prompts at most.
    pub prompts: usize,
    /// Prompts that wait are taken up as soon as so many places are free, or nothing is under way.
    pub refill: usize,
}

/// What the loop needs to know of a model.
pub struct Vocabulary<'a> {
    /// Rows of the output head.
    pub size: usize,
    /// Tokens that end an answer.
    pub stops: &'a [u32],
}

/// One answer being written.
pub(super) struct Row {
    pub(super) owner: Continuation,
    /// Names its draws.
    pub(super) key: StreamKey,
}

impl Row {
    /// The random number that the token at this place of its answer is drawn with.
    pub(super) fn uniform(&self, place: usize) -> f64 {
        self.key.clone().number(place as u64).uniform()
    }
}

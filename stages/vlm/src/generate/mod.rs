//! Writing answers, token by token.
//!
//! The image and the prompt are encoded once per prompt; their keys and values are kept and shared by all of its
//! generations, each of which keeps its own for what it has written. A model computes the logits ([`Decoder`]); what is
//! drawn from them, when an answer ends, and when a prompt that waits takes the place of one whose answers have ended, is
//! the same for all models ([`write()`]).

mod asked;
mod draw;
pub mod sample;
mod write;

use burn::tensor::Tensor;
use dcsft_tensor::ops::Continuation;

use crate::error::VlmError;
use crate::model::Sampling;
pub use asked::{Asked, Places, Vocabulary};
pub use write::write;

/// Below it a temperature is no number that logits can be divided by.
pub const LOWEST_TEMPERATURE: f64 = 1e-6;

/// Computes the logits of prompts and of the answers to them; keeps keys and values. It has the prompts.
pub trait Decoder {
    /// Encodes images and prompts of the next that wait, at most `most` of them, in their order. None where none waits, or
    /// those `under_way`, the numbers of prompts that were taken up before, leave no room for another; where there are
    /// none of these the next is taken up whatever it takes.
    ///
    /// # Errors
    /// [`VlmError`] of a prompt that cannot be encoded.
    fn take_up(&mut self, under_way: &[usize], most: usize) -> Result<Option<TakenUp>, VlmError>;

    /// Feeds the last written tokens in and gives the logits of the next ones, `[steps, vocab]`. Steps of one
    /// prompt follow each other.
    fn step(&mut self, steps: &[Step]) -> Tensor<2>;
}

/// Prompts whose answers are to be written.
pub struct TakenUp {
    /// The prompts.
    pub asked: Vec<Asked>,
    /// The logits of each one's first answer token, `[prompts, vocab]`.
    pub logits: Tensor<2>,
}

/// One answer's next step.
pub struct Step {
    /// The prompt, numbered as they are taken up, and which of all answers: `prompt * generations + generation`.
    pub owner: Continuation,
    /// The token that was written last.
    pub token: u32,
    /// That token's position in the sequence, image tokens included.
    pub position: usize,
}

impl Sampling {
    /// Checks the values.
    ///
    /// # Errors
    /// [`VlmError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), VlmError> {
        let error = |text: String| Err(VlmError::Config(text));
        let divides = self.temperature >= LOWEST_TEMPERATURE && self.temperature.is_finite();
        if self.temperature != 0.0 && !divides {
            return error(format!(
                "temperature must be 0 (greedy) or at least {LOWEST_TEMPERATURE}, not {}",
                self.temperature
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return error(format!(
                "top_p must be above 0 and at most 1, not {}",
                self.top_p
            ));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return error(format!(
                "repetition_penalty must be a number above 0, not {}",
                self.repetition_penalty
            ));
        }
        if self.max_new_tokens == 0 {
            return error("max_new_tokens must be at least 1".into());
        }
        Ok(())
    }
}

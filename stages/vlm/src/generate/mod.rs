//! Writing answers, token by token.
//!
//! The image and the prompt are encoded once per prompt; their keys and values are kept and shared by all of its
//! generations, each of which keeps its own for what it has written. A model computes the logits ([`Decoder`]); what is
//! drawn from them, and when an answer ends, is the same for all models ([`write`]).

mod asked;
mod draw;
pub mod sample;

use std::ops::Range;

use burn::tensor::Tensor;
use dcsft_tensor::ops::Continuation;
use dcsft_tensor::rng::StreamKey;

use crate::error::VlmError;
use crate::model::{Completion, Sampling};
use asked::Row;
pub use asked::{Asked, Vocabulary};
use draw::{Chooser, Turn};

/// Below it a temperature is no number that logits can be divided by.
pub const LOWEST_TEMPERATURE: f64 = 1e-6;

/// Computes the logits of one group of prompts; keeps keys and values.
pub trait Decoder {
    /// Encodes images and prompts. Gives the logits of each prompt's first answer token, `[prompts, vocab]`.
    fn start(&mut self) -> Tensor<2>;

    /// Feeds the last written tokens in and gives the logits of the next ones, `[steps, vocab]`. Steps of one
    /// prompt follow each other.
    fn step(&mut self, steps: &[Step]) -> Tensor<2>;
}

/// One answer's next step.
pub struct Step {
    /// The prompt in the group, and which of the group's answers: `prompt * generations + generation`.
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

/// Writes answers `generations` to a group of prompts, token by token.
///
/// # Errors
/// [`VlmError::Device`] where the device has failed, [`VlmError::Logits`] at the first logits that are no numbers.
pub fn write(
    decoder: &mut dyn Decoder,
    vocabulary: &Vocabulary,
    prompts: &[Asked],
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    let per_prompt = generations.len();
    let empty = Completion {
        tokens: Vec::new(),
        logprobs: Vec::new(),
        finished: false,
    };
    let mut answers = vec![empty; prompts.len() * per_prompt];
    let mut rows = Vec::with_capacity(answers.len());
    for (prompt, Asked { id, .. }) in prompts.iter().enumerate() {
        let key = StreamKey::new("rollout", sampling.seed).text(id);
        for (index, generation) in generations.clone().enumerate() {
            rows.push(Row {
                owner: Continuation {
                    prefix: prompt,
                    sequence: prompt * per_prompt + index,
                },
                key: key.clone().number(u64::from(generation)),
            });
        }
    }
    let mut logits = decoder.start();
    let mut chooser = Chooser::new(&logits, vocabulary, prompts, per_prompt, sampling);
    // All generations of a prompt draw their first token from the same logits.
    let mut share = per_prompt;
    while !rows.is_empty() {
        let turn = Turn {
            rows: &rows,
            answers: &answers,
            share: std::mem::replace(&mut share, 1),
        };
        let drawn = chooser.draw(logits, &turn)?;
        let mut writing = Vec::with_capacity(rows.len());
        let mut steps = Vec::with_capacity(rows.len());
        for (row, (token, logprob)) in rows.into_iter().zip(drawn) {
            let (asked, answer) = (&prompts[row.owner.prefix], &mut answers[row.owner.sequence]);
            let index = answer.tokens.len();
            answer.tokens.push(token);
            answer.logprobs.push(logprob);
            answer.finished = vocabulary.stops.contains(&token);
            let room = index + 1 < sampling.max_new_tokens.min(asked.room);
            if !answer.finished && room {
                steps.push(Step {
                    owner: row.owner,
                    token,
                    position: asked.position + index,
                });
                writing.push(row);
            }
        }
        rows = writing;
        if steps.is_empty() {
            break;
        }
        logits = decoder.step(&steps);
    }
    let mut answers = answers.into_iter();
    Ok(prompts
        .iter()
        .map(|_| answers.by_ref().take(per_prompt).collect())
        .collect())
}

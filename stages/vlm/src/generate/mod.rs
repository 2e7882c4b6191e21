//! Writing answers, token by token.
//!
//! The image and the prompt are encoded once per prompt; their keys and values are kept and shared by all of its
//! generations, each of which keeps its own for what it has written. On the processor this runs on plain slices
//! ([`host`]), on other devices as tensor operations ([`tensors`]).

mod host;
pub mod sample;
mod tensors;

use std::ops::Range;

use burn::tensor::Device;
use rayon::prelude::*;

use crate::error::VlmError;
use crate::micro::MicroVlm;
use crate::model::{Completion, Prompt, Sampling, VisionLanguageModel};
use crate::rng::StreamKey;

use host::{HostDecoder, HostModel};
use sample::Sampler;
use tensors::TensorDecoder;

/// Prompts that are worked on together; the answers do not depend on it.
pub(crate) const GROUP: usize = 8;
/// Prompts in one call: enough groups for many threads.
pub(crate) const AT_ONCE: usize = 256;

/// Below it a temperature is no number that logits can be divided by.
pub const LOWEST_TEMPERATURE: f64 = 1e-6;

/// Computes the logits of one group of prompts; keeps keys and values.
pub trait Decoder {
    /// Encodes images and prompts. Gives the logits of each prompt's first answer token, `[prompts, vocab]`.
    ///
    /// # Errors
    /// [`VlmError::Device`] where the device has failed.
    fn start(&mut self) -> Result<Vec<f32>, VlmError>;

    /// Feeds the last written tokens in and gives the logits of the next ones, `[steps, vocab]`. Steps of one
    /// prompt follow each other.
    ///
    /// # Errors
    /// As [`Decoder::start`].
    fn step(&mut self, steps: &[Step]) -> Result<Vec<f32>, VlmError>;
}

/// What the loop needs to know of a prompt.
pub struct Asked<'a> {
    /// The sample's content ID: names the draws.
    pub id: &'a str,
    /// The prompt's tokens, for the repetition penalty.
    pub tokens: &'a [u32],
    /// The position of the first answer token.
    pub position: usize,
    /// Tokens of an answer that the model's context has room for after the prompt, at least one.
    pub room: usize,
}

/// What the loop needs to know of a model.
pub struct Vocabulary<'a> {
    /// Rows of the output head.
    pub size: usize,
    /// Tokens that end an answer.
    pub stops: &'a [u32],
}

/// One answer's next step.
pub struct Step {
    /// Prompt in the group.
    pub prompt: usize,
    /// Which answer of the group: `prompt * generations + generation`.
    pub slot: usize,
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

/// One answer being written.
struct Row {
    prompt: usize,
    slot: usize,
    /// Names its draws.
    key: StreamKey,
}

pub(crate) fn generate(
    model: &MicroVlm,
    prompts: &[Prompt],
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    let tokens = prompt_tokens(model, prompts, sampling)?;
    let merged = model.merged();
    let groups: Vec<_> = prompts.chunks(GROUP).zip(tokens.chunks(GROUP)).collect();
    let answers: Result<Vec<_>, _> = if merged.device() == &Device::flex() {
        let host = HostModel::new(&merged)?;
        let answer = |(prompts, tokens)| {
            let slots = <[Prompt]>::len(prompts) * generations.len();
            let mut decoder = HostDecoder::new(&host, patches(&merged, prompts)?, tokens, slots);
            let asked = asked(&merged, prompts, tokens);
            write(
                &mut decoder,
                &vocabulary(&merged),
                &asked,
                generations.clone(),
                sampling,
            )
        };
        groups.into_par_iter().map(answer).collect()
    } else {
        let answer = |(prompts, tokens)| {
            let mut decoder = TensorDecoder::new(&merged, patches(&merged, prompts)?, tokens);
            let asked = asked(&merged, prompts, tokens);
            write(
                &mut decoder,
                &vocabulary(&merged),
                &asked,
                generations.clone(),
                sampling,
            )
        };
        groups.into_iter().map(answer).collect()
    };
    Ok(answers?.into_iter().flatten().collect())
}

fn patches(model: &MicroVlm, prompts: &[Prompt]) -> Result<Vec<f32>, VlmError> {
    let mut patches = Vec::new();
    for prompt in prompts {
        patches.extend(model.patches(model.image(prompt)?.load()?.as_ref())?);
    }
    Ok(patches)
}

fn asked<'a>(model: &MicroVlm, prompts: &'a [Prompt], tokens: &'a [Vec<u32>]) -> Vec<Asked<'a>> {
    let asked = |(prompt, tokens): (&'a Prompt, &'a Vec<u32>)| {
        let position = model.config().patches() + tokens.len();
        Asked {
            id: &prompt.id,
            tokens,
            position,
            room: model.config().positions() + 1 - position,
        }
    };
    prompts.iter().zip(tokens).map(asked).collect()
}

fn vocabulary(model: &MicroVlm) -> Vocabulary<'_> {
    Vocabulary {
        size: model.tokenizer().vocab_size(),
        stops: std::slice::from_ref(model.eos()),
    }
}

/// The prompts' tokens, once it is sure that everything fits.
fn prompt_tokens(
    model: &MicroVlm,
    prompts: &[Prompt],
    sampling: &Sampling,
) -> Result<Vec<Vec<u32>>, VlmError> {
    sampling.validate()?;
    let eos = model.tokenizer().eos();
    let mut tokens = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        prompt.validate()?;
        tokens.push(model.prompt_tokens(prompt, &[eos])?);
    }
    Ok(tokens)
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
                prompt,
                slot: prompt * per_prompt + index,
                key: key.clone().number(u64::from(generation)),
            });
        }
    }
    // All generations of a prompt draw their first token from the same logits.
    let mut logits: Vec<f32> = decoder
        .start()?
        .chunks_exact(vocabulary.size)
        .flat_map(|row| row.repeat(per_prompt))
        .collect();
    let mut sampler = Sampler::new(sampling);
    while !rows.is_empty() {
        let mut writing = Vec::with_capacity(rows.len());
        let mut steps = Vec::with_capacity(rows.len());
        for (row, logits) in rows
            .into_iter()
            .zip(logits.chunks_exact_mut(vocabulary.size))
        {
            let (asked, answer) = (&prompts[row.prompt], &mut answers[row.slot]);
            let index = answer.tokens.len();
            if let Some(&value) = logits.iter().find(|logit| !logit.is_finite()) {
                return Err(VlmError::Logits {
                    sample: asked.id.to_owned(),
                    token: index + 1,
                    value,
                });
            }
            let (token, logprob) =
                sampler.draw(logits, [asked.tokens, &answer.tokens], &row.key, index);
            answer.tokens.push(token);
            answer.logprobs.push(logprob);
            answer.finished = vocabulary.stops.contains(&token);
            let room = index + 1 < sampling.max_new_tokens.min(asked.room);
            if !answer.finished && room {
                steps.push(Step {
                    prompt: row.prompt,
                    slot: row.slot,
                    token,
                    position: asked.position + index,
                });
                writing.push(row);
            }
        }
        rows = writing;
        if !steps.is_empty() {
            logits = decoder.step(&steps)?;
        }
    }
    let mut answers = answers.into_iter();
    Ok(prompts
        .iter()
        .map(|_| answers.by_ref().take(per_prompt).collect())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;

    use super::{
        Sampling, TensorDecoder, asked, generate, patches, prompt_tokens, vocabulary, write,
    };
    use crate::lora::LoraConfig;
    use crate::micro::{MicroConfig, MicroVlm};
    use crate::model::{Prompt, RgbImage, VisionLanguageModel as _};
    use crate::rng::StreamKey;

    #[test]
    fn the_tensor_path_writes_what_the_slice_path_writes() {
        let mut model = MicroVlm::new(MicroConfig::default(), 3, &Device::flex()).unwrap();
        model.add_lora(&LoraConfig::default(), 0).unwrap();
        let texts = ["object?", "", "caption on"];
        let prompts: Vec<Prompt> = (0..9)
            .map(|index| {
                let mut stream = StreamKey::new("image", index).stream();
                let pixels: Arc<[u8]> = (0..16 * 16 * 3).map(|_| stream.below(256) as u8).collect();
                let image = RgbImage {
                    width: 16,
                    height: 16,
                    pixels,
                };
                let text = texts[index as usize % 3];
                Prompt::question(index.to_string(), vec![image.into()], None, text)
            })
            .collect();
        let sampling = Sampling {
            temperature: 0.8,
            top_p: 0.95,
            top_k: 0,
            max_new_tokens: 20,
            seed: 1,
            ..Sampling::default()
        };
        let host = generate(&model, &prompts, 1..5, &sampling).unwrap();
        let merged = model.merged();
        let tokens = prompt_tokens(&merged, &prompts, &sampling).unwrap();
        let images = patches(&merged, &prompts).unwrap();
        let mut decoder = TensorDecoder::new(&merged, images, &tokens);
        let asked = asked(&merged, &prompts, &tokens);
        let tensors = write(&mut decoder, &vocabulary(&merged), &asked, 1..5, &sampling).unwrap();
        for (host, tensors) in host.iter().flatten().zip(tensors.iter().flatten()) {
            assert_eq!(
                (&host.tokens, host.finished),
                (&tensors.tokens, tensors.finished)
            );
            for (left, right) in host.logprobs.iter().zip(&tensors.logprobs) {
                assert!((left - right).abs() < 1e-4, "{left} and {right}");
            }
        }
        assert!(host.iter().flatten().any(|answer| answer.tokens.len() > 6));
    }
}

//! Writing answers, token by token.
//!
//! The image and the prompt are encoded once per prompt; their keys and values are kept and shared by all of its
//! generations, each of which keeps its own for what it has written. On the processor this runs on plain slices
//! ([`host`]), on other devices as tensor operations ([`tensors`]).

mod host;
mod sample;
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
const GROUP: usize = 8;

/// Below it a temperature is no number that logits can be divided by.
const LOWEST_TEMPERATURE: f64 = 1e-6;

/// Computes the logits of one group of prompts; keeps keys and values.
trait Decoder {
    /// Encodes images and prompts: `patches` holds one image per prompt, `slots` answers will be written. Gives
    /// the logits of each prompt's first answer token, `[prompts, vocab]`.
    fn start(&mut self, patches: Vec<f32>, prompts: &[Vec<u32>], slots: usize) -> Vec<f32>;

    /// Feeds the last written tokens in and gives the logits of the next ones, `[steps, vocab]`. Steps of one
    /// prompt follow each other.
    fn step(&mut self, steps: &[Step]) -> Vec<f32>;
}

/// One answer's next step.
struct Step {
    /// Prompt in the group.
    prompt: usize,
    /// Which answer of the group: `prompt * generations + generation`.
    slot: usize,
    /// The token that was written last.
    token: u32,
    /// That token's position in the sequence, image tokens included.
    position: usize,
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
    let merged = model.frozen();
    let groups: Vec<_> = prompts.chunks(GROUP).zip(tokens.chunks(GROUP)).collect();
    let answers: Result<Vec<_>, _> = if merged.device() == &Device::flex() {
        let host = HostModel::new(&merged);
        let answer = |(prompts, tokens)| {
            group(
                &merged,
                &mut HostDecoder::new(&host),
                prompts,
                tokens,
                generations.clone(),
                sampling,
            )
        };
        groups.into_par_iter().map(answer).collect()
    } else {
        let answer = |(prompts, tokens)| {
            group(
                &merged,
                &mut TensorDecoder::new(&merged),
                prompts,
                tokens,
                generations.clone(),
                sampling,
            )
        };
        groups.into_iter().map(answer).collect()
    };
    Ok(answers?.into_iter().flatten().collect())
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
        prompt.image.validate()?;
        tokens.push(model.prompt_tokens(prompt, &[eos])?);
    }
    Ok(tokens)
}

/// All answers to a group of prompts.
fn group(
    model: &MicroVlm,
    decoder: &mut impl Decoder,
    prompts: &[Prompt],
    tokens: &[Vec<u32>],
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    let mut patches = Vec::new();
    for prompt in prompts {
        patches.extend(model.patches(&prompt.image)?);
    }
    let per_prompt = generations.len();
    let (eos, vocab) = (model.tokenizer().eos(), model.tokenizer().vocab_size());
    let lengths: Vec<usize> = tokens
        .iter()
        .map(|tokens| model.config().patches() + tokens.len())
        .collect();
    let empty = Completion {
        tokens: Vec::new(),
        logprobs: Vec::new(),
        finished: false,
    };
    let mut answers = vec![empty; prompts.len() * per_prompt];
    let mut rows = Vec::with_capacity(answers.len());
    for (prompt, Prompt { id, .. }) in prompts.iter().enumerate() {
        let key = StreamKey::new("rollout", sampling.seed).text(id);
        for (index, generation) in generations.clone().enumerate() {
            let key = key.clone().number(u64::from(generation));
            rows.push(Row {
                prompt,
                slot: prompt * per_prompt + index,
                key,
            });
        }
    }
    // All generations of a prompt draw their first token from the same logits.
    let first = decoder.start(patches, tokens, answers.len());
    let mut logits: Vec<f32> = first
        .chunks_exact(vocab)
        .flat_map(|row| row.repeat(per_prompt))
        .collect();
    let mut sampler = Sampler::new(sampling);
    while !rows.is_empty() {
        let mut writing = Vec::with_capacity(rows.len());
        let mut steps = Vec::with_capacity(rows.len());
        for (row, logits) in rows.into_iter().zip(logits.chunks_exact_mut(vocab)) {
            let answer = &mut answers[row.slot];
            let index = answer.tokens.len();
            let (token, logprob) = sampler.draw(logits, &row.key, index);
            answer.tokens.push(token);
            answer.logprobs.push(logprob);
            answer.finished = token == eos;
            let position = lengths[row.prompt] + index;
            let room = index + 1 < sampling.max_new_tokens && position < model.config().positions();
            if !answer.finished && room {
                steps.push(Step {
                    prompt: row.prompt,
                    slot: row.slot,
                    token,
                    position,
                });
                writing.push(row);
            }
        }
        rows = writing;
        if !steps.is_empty() {
            logits = decoder.step(&steps);
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

    use super::{Sampling, TensorDecoder, generate, group, prompt_tokens};
    use crate::lora::LoraConfig;
    use crate::micro::{MicroConfig, MicroVlm};
    use crate::model::{Prompt, RgbImage};
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
                Prompt {
                    id: index.to_string().into(),
                    image,
                    text: texts[index as usize % 3].into(),
                }
            })
            .collect();
        let sampling = Sampling {
            temperature: 0.8,
            top_p: 0.95,
            top_k: 0,
            max_new_tokens: 20,
            seed: 1,
        };
        let host = generate(&model, &prompts, 1..5, &sampling).unwrap();
        let merged = model.frozen();
        let tokens = prompt_tokens(&merged, &prompts, &sampling).unwrap();
        let mut decoder = TensorDecoder::new(&merged);
        let tensors = group(&merged, &mut decoder, &prompts, &tokens, 1..5, &sampling).unwrap();
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

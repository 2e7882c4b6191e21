//! Writing answers, token by token.
//!
//! On the processor this runs on plain slices: adapters merged into a copy of the weights, the image and the
//! prompt encoded once per prompt, their keys and values shared by all of its generations.

mod host;
mod sample;

use std::ops::Range;

use rayon::prelude::*;

use crate::error::VlmError;
use crate::micro::MicroVlm;
use crate::model::{Completion, Prompt, Sampling, VisionLanguageModel};
use crate::rng::StreamKey;

use host::{Cache, HostModel, Prefix};
use sample::Sampler;

/// Prompts that are worked on together; the answers do not depend on it.
const GROUP: usize = 16;

impl Sampling {
    /// Checks the values.
    ///
    /// # Errors
    /// [`VlmError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), VlmError> {
        let error = |text: String| Err(VlmError::Config(text));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return error(format!("temperature must be 0 (greedy) or positive, not {}", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return error(format!("top_p must be above 0 and at most 1, not {}", self.top_p));
        }
        if self.max_new_tokens == 0 {
            return error("max_new_tokens must be at least 1".into());
        }
        Ok(())
    }
}

/// One answer being written.
struct Row {
    /// Prompt in the group.
    prompt: usize,
    /// Which answers of the group it is: `prompt * generations + generation`.
    answer: usize,
    /// Names its draws.
    key: StreamKey,
}

pub(crate) fn generate(
    model: &MicroVlm,
    prompts: &[Prompt],
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    sampling.validate()?;
    let tokens = prompts
        .iter()
        .map(|prompt| model.prompt_tokens(prompt, &[model.tokenizer().eos()]))
        .collect::<Result<Vec<_>, _>>()?;
    for prompt in prompts {
        prompt.image.validate()?;
    }
    let host = HostModel::new(model);
    let groups: Vec<_> = prompts.chunks(GROUP).zip(tokens.chunks(GROUP)).collect();
    let answers: Result<Vec<_>, _> = groups
        .into_par_iter()
        .map(|(prompts, tokens)| group(model, &host, prompts, tokens, generations.clone(), sampling))
        .collect();
    Ok(answers?.into_iter().flatten().collect())
}

/// All answers to a group of prompts.
fn group(
    model: &MicroVlm,
    host: &HostModel,
    prompts: &[Prompt],
    tokens: &[Vec<u32>],
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    let mut patches = Vec::new();
    for prompt in prompts {
        patches.extend(model.patches(&prompt.image)?);
    }
    let Prefix { cache: prefix, logits, lengths } = host.prefill(&patches, tokens);
    let per_prompt = generations.len();
    let eos = model.tokenizer().eos();
    let mut sampler = Sampler::new(sampling);
    let empty = Completion { tokens: Vec::new(), logprobs: Vec::new(), finished: false };
    let mut answers = vec![empty; prompts.len() * per_prompt];

    let mut rows = Vec::with_capacity(answers.len());
    for (prompt, Prompt { id, .. }) in prompts.iter().enumerate() {
        let key = StreamKey::new("rollout", sampling.seed).text(id);
        for (index, generation) in generations.clone().enumerate() {
            let key = key.clone().number(u64::from(generation));
            rows.push(Row { prompt, answer: prompt * per_prompt + index, key });
        }
    }
    let mut cache = Cache::new(host, answers.len());
    // All generations of a prompt draw their first token from the same logits.
    let mut logits: Vec<f32> = rows.iter().flat_map(|row| host.logits_row(&logits, row.prompt)).copied().collect();
    loop {
        let mut writing = Vec::with_capacity(rows.len());
        for (row, logits) in rows.into_iter().zip(logits.chunks_exact_mut(host.vocab())) {
            let answer = &mut answers[row.answer];
            let position = answer.tokens.len();
            let (token, logprob) = sampler.draw(logits, &row.key, position);
            answer.tokens.push(token);
            answer.logprobs.push(logprob);
            answer.finished = token == eos;
            let context_left = lengths[row.prompt] + position < host.positions();
            if !answer.finished && position + 1 < sampling.max_new_tokens && context_left {
                writing.push(row);
            }
        }
        rows = writing;
        if rows.is_empty() {
            break;
        }
        let steps: Vec<host::Step> = rows
            .iter()
            .map(|row| {
                let answer = &answers[row.answer];
                host::Step {
                    prompt: row.prompt,
                    slot: row.answer,
                    token: answer.tokens[answer.tokens.len() - 1],
                    position: lengths[row.prompt] + answer.tokens.len() - 1,
                }
            })
            .collect();
        logits = host.step(&prefix, &mut cache, &steps);
    }
    let mut answers = answers.into_iter();
    Ok(prompts.iter().map(|_| answers.by_ref().take(per_prompt).collect()).collect())
}

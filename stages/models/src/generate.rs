//! Writing answers, token by token: images and prompts are encoded once, and their keys and values are shared by all
//! answers to them.

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use dcsft_tensor::ops::{Continuation, KvCache};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::generate::{Asked, Decoder, Step, Vocabulary, write};
use dcsft_vlm::model::{Completion, Prompt, Sampling};
use rayon::prelude::*;

use crate::batch::{Ask, Batch, Sequence};
use crate::family::Family;
use crate::model::{HubModel, embedding, pass};
use crate::modules::Weights;
use crate::pass::Pass;

/// Prompts that are worked on together at most: each weight is read once for all of their answers. The answers do not
/// depend on it.
pub(crate) const GROUP: usize = 16;
/// The same on a GPU, which works on all rows at once.
pub(crate) const GPU_GROUP: usize = 32;

pub(crate) fn generate(
    model: &HubModel,
    prompts: &[Prompt],
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    sampling.validate()?;
    let mut answers = Vec::with_capacity(prompts.len());
    // The patches of a large image take some hundred times what its file does: only a group's are in memory.
    for group in prompts.chunks(model.group()) {
        let sequences: Result<Vec<_>, _> = group
            .par_iter()
            .map(|prompt| sequence(model, prompt))
            .collect();
        answers.extend(model.write(&sequences?, generations.clone(), sampling)?);
    }
    Ok(answers)
}

/// A prompt as the model takes it, with room for at least one token of an answer.
fn sequence(model: &HubModel, prompt: &Prompt) -> Result<Sequence, VlmError> {
    prompt.validate()?;
    let encoded = model.encode(prompt)?;
    let needed = encoded.ids.len() + 1;
    if needed > model.context() {
        return Err(VlmError::TooLong {
            what: format!(
                "the prompt of sample {} with one token of an answer",
                prompt.id
            ),
            needed,
            room: model.context(),
        });
    }
    Ok(Sequence {
        id: prompt.id.clone(),
        encoded: encoded.into(),
        answers: Vec::new(),
    })
}

impl HubModel {
    /// Answers `generations` to prompts that are encoded already, each with room for at least one token.
    ///
    /// # Errors
    /// As [`dcsft_vlm::generate::write`].
    pub fn write(
        &self,
        prompts: &[Sequence],
        generations: Range<u32>,
        sampling: &Sampling,
    ) -> Result<Vec<Vec<Completion>>, VlmError> {
        let weights = self.weights.without_gradients();
        let vocabulary = Vocabulary {
            size: self.family().decoder().config.vocab,
            stops: &self.stops,
        };
        let group = |prompts: &[Sequence]| {
            let asked: Vec<Asked> = prompts.iter().map(|prompt| self.asked(prompt)).collect();
            let mut decoder = CachedDecoder {
                model: self,
                weights: &weights,
                prompts,
                cache: None,
            };
            write(
                &mut decoder,
                &vocabulary,
                &asked,
                generations.clone(),
                sampling,
            )
        };
        let groups: Result<Vec<_>, _> = prompts.chunks(self.group()).map(group).collect();
        Ok(groups?.concat())
    }

    /// Prompts that are worked on together.
    pub(crate) fn group(&self) -> usize {
        match self.device.clone().inner() == Device::flex() {
            true => GROUP,
            false => GPU_GROUP,
        }
    }

    fn asked<'a>(&self, prompt: &'a Sequence) -> Asked<'a> {
        Asked {
            id: &prompt.id,
            tokens: &prompt.encoded.ids,
            position: prompt.encoded.next_position as usize,
            room: self.context().saturating_sub(prompt.encoded.ids.len()),
        }
    }
}

/// Decodes one group of prompts.
struct CachedDecoder<'a> {
    model: &'a HubModel,
    /// The model's, without gradients.
    weights: &'a Weights,
    prompts: &'a [Sequence],
    /// Keys and values, once the prompts are encoded.
    cache: Option<KvCache>,
}

impl<'a> CachedDecoder<'a> {
    fn pass(&self) -> Pass<'a> {
        pass(self.weights, None)
    }

    fn family(&self) -> &'a dyn Family {
        self.model.family()
    }
}

impl Decoder for CachedDecoder<'_> {
    fn start(&mut self) -> Tensor<2> {
        let batch = Batch::new(self.family(), self.prompts, Ask::Next);
        let (decoder, pass) = (self.family().decoder(), self.pass());
        let pixels = self.model.pixels(&batch).inner();
        let rows = embedding(self.family(), pass, &batch).run(pixels);
        let (x, cache) = decoder.prefill(pass, rows, &batch);
        self.cache = Some(cache);
        decoder.head(pass, x)
    }

    fn step(&mut self, steps: &[Step]) -> Tensor<2> {
        let (decoder, pass) = (self.family().decoder(), self.pass());
        let tokens: Vec<u32> = steps.iter().map(|step| step.token).collect();
        let positions: Vec<[u32; 3]> = steps.iter().map(|step| [step.position as u32; 3]).collect();
        let rotary = decoder.config.rotary(&positions);
        let owners: Vec<Continuation> = steps.iter().map(|step| step.owner).collect();
        let x = decoder.embed_tokens(pass, &tokens);
        let cache = self.cache.as_mut().expect("the prompts are encoded");
        cache.begin(&owners);
        let x = decoder.decode(pass, x, &rotary, |index, qkv| cache.attend(index, qkv));
        decoder.head(pass, x)
    }
}

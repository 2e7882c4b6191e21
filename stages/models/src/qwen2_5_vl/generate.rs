//! Writing answers, token by token: images and prompts are encoded once, and their keys and values are shared by all
//! answers to them.

use std::ops::Range;

use burn::tensor::Device;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::generate::{Asked, Decoder, Step, Vocabulary, write};
use dcsft_vlm::model::{Completion, Forward, Prompt, Sampling};
use dcsft_vlm::ops::{self, Heads, KvCache, Rotary};
use dcsft_vlm::weights::values;
use rayon::prelude::*;

use super::QwenVl;
use super::batch::{Ask, Batch, Sequence, mrope};
use super::forward::{Pass, Rows, patches};

/// Prompts that are worked on together at most: each weight is read once for all of their answers. The answers do not
/// depend on it.
pub(super) const GROUP: usize = 16;
/// The same on a GPU, which works on all rows at once.
pub(super) const GPU_GROUP: usize = 32;

pub(super) fn generate(
    model: &QwenVl,
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
fn sequence(model: &QwenVl, prompt: &Prompt) -> Result<Sequence, VlmError> {
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

impl QwenVl {
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
        let model = self.without_gradients();
        let vocabulary = Vocabulary {
            size: self.config.text.vocab_size,
            stops: &self.stops,
        };
        let group = |prompts: &[Sequence]| {
            let asked: Vec<Asked> = prompts.iter().map(|prompt| model.asked(prompt)).collect();
            let mut decoder = QwenDecoder::new(&model, prompts);
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
    pub(super) fn group(&self) -> usize {
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

    /// A copy that tracks no gradients; the weights are in memory once.
    pub(super) fn without_gradients(&self) -> Self {
        let mut copy = self.clone();
        for param in copy.params.iter_mut() {
            param.value = param.value.clone().inner();
            param.trainable = false;
        }
        copy
    }
}

/// Decodes one group of prompts.
struct QwenDecoder<'a> {
    model: &'a QwenVl,
    options: Forward,
    prompts: &'a [Sequence],
    layers: Vec<KvCache>,
}

impl<'a> QwenDecoder<'a> {
    fn new(model: &'a QwenVl, prompts: &'a [Sequence]) -> Self {
        Self {
            model,
            options: Forward::default(),
            prompts,
            layers: Vec::new(),
        }
    }

    fn pass(&self) -> Pass<'_> {
        Pass {
            model: self.model,
            options: &self.options,
        }
    }

    fn heads(&self) -> Heads {
        let text = &self.model.config().text;
        Heads {
            queries: text.heads,
            keys: text.kv_heads,
        }
    }
}

/// Nothing is dropped when answers are written, so it does not matter whose a row is.
const NOBODY: Rows<'static> = Rows {
    ids: &[],
    counts: &[],
};

impl Decoder for QwenDecoder<'_> {
    fn start(&mut self) -> Result<Vec<f32>, VlmError> {
        let batch = Batch::new(self.model.config(), self.prompts, Ask::Next);
        let pass = self.pass();
        let modules = self.model.modules();
        let image = batch.vision.as_ref().map(|plan| {
            let rows = Rows {
                ids: &batch.image_ids,
                counts: &plan.image_rows,
            };
            let x = patches(&batch, self.model);
            pass.encode(x, plan, rows)
        });
        let mut x = pass.embed(image, &batch);
        let mut layers = Vec::with_capacity(modules.layers.len());
        for (index, layer) in modules.layers.iter().enumerate() {
            let last = index + 1 == modules.layers.len();
            let spans = if last {
                &batch.asked_rows
            } else {
                &batch.all_rows
            };
            let qkv = pass.qkv(x.clone(), layer, &batch.rotary, NOBODY);
            layers.push(KvCache::new(&qkv, &batch.prompts, self.heads()));
            let mixed = ops::attention(qkv, spans, self.heads());
            if last {
                x = ops::take_rows(x, &spans.query_rows());
            }
            x = pass.finish(x, mixed, layer, NOBODY);
        }
        let logits = values(&pass.head(x));
        self.layers = layers;
        logits
    }

    fn step(&mut self, steps: &[Step]) -> Result<Vec<f32>, VlmError> {
        let mut layers = std::mem::take(&mut self.layers);
        let pass = self.pass();
        let modules = self.model.modules();
        let tokens: Vec<u32> = steps.iter().map(|step| step.token).collect();
        let positions: Vec<[u32; 3]> = steps.iter().map(|step| [step.position as u32; 3]).collect();
        let rotary: Rotary = mrope(&positions, self.model.config());
        let mut x = ops::take_rows(pass.embedding(), &tokens);
        for (layer, cache) in modules.layers.iter().zip(&mut layers) {
            let qkv = pass.qkv(x.clone(), layer, &rotary, NOBODY);
            let mixed = cache.step(qkv, steps);
            x = pass.finish(x, mixed, layer, NOBODY);
        }
        let logits = values(&pass.head(x));
        self.layers = layers;
        logits
    }
}

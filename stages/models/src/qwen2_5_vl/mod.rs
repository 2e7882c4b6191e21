//! Qwen2.5-VL: a vision tower with window attention and a causal decoder with multimodal rotary positions
//! (Bai et al. 2025), as `Qwen2_5_VLForConditionalGeneration` of Transformers computes it.

mod adapter;
pub mod batch;
pub mod config;
mod files;
mod forward;
mod generate;
mod generation;
mod lora;
mod memory;
mod modules;
pub mod vision;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup, freeze};
use dcsft_vlm::model::{
    Completion, Example, Forward, Output, Picture, Prompt, RgbImage, Sampling, Tape, Tokenizer,
    VisionLanguageModel,
};
use dcsft_vlm::params::{Param, ParamSet};

pub use adapter::load as load_adapter;
pub use batch::Sequence;
pub use files::{Imported, ModelFiles, Precision, SETTINGS, Settings, import, inspect};
pub use memory::{QwenFootprint, Texts};
pub(crate) use modules::{Modules, shapes};

use crate::processor::{Encode, Encoded, Processor};
use crate::qwen2_5_vl::config::QwenConfig;
use batch::{Ask, Batch};
use forward::{Chain, Pass};

/// Qwen2.5-VL.
#[derive(Clone)]
pub struct QwenVl {
    config: QwenConfig,
    processor: Arc<Processor>,
    modules: Modules,
    params: ParamSet,
    lora: Option<LoraConfig>,
    /// Tokens that end an answer.
    stops: Vec<u32>,
    /// Longest sequence, answers included; none for what the configuration allows.
    max_tokens: Option<usize>,
    /// Where it was read from: a frozen base is copied from there when the model is saved.
    files: ModelFiles,
    /// With autodiff.
    device: Device,
    dtype: DType,
}

impl QwenVl {
    /// The model's configuration.
    pub fn config(&self) -> &QwenConfig {
        &self.config
    }

    /// Its text and image side.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    pub(crate) fn modules(&self) -> &Modules {
        &self.modules
    }

    pub(crate) fn params_ref(&self) -> &ParamSet {
        &self.params
    }

    pub(crate) fn adapters(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Tokens that a sequence has room for.
    pub fn context(&self) -> usize {
        let most = self.config.text.max_position_embeddings;
        self.max_tokens.map_or(most, |tokens| tokens.min(most))
    }

    /// Ends answers at these tokens, in the place of those that the checkpoint names.
    pub fn set_stops(&mut self, stops: Vec<u32>) {
        self.stops = stops;
    }

    /// A question, encoded, up to where the answer begins.
    ///
    /// # Errors
    /// As [`Processor::encode`].
    pub fn encode(&self, prompt: &Prompt) -> Result<Encoded, VlmError> {
        let options = Encode {
            generation_prompt: true,
            ..Encode::default()
        };
        prompt.validate()?;
        let images = prompt
            .images
            .iter()
            .map(|image| Ok(image.load()?.into_owned()));
        let images: Vec<RgbImage> = images.collect::<Result<_, VlmError>>()?;
        self.processor.encode(&prompt.messages, &images, &options)
    }

    /// Logits of all positions of conversations, packed: `[sum of lengths, vocab]`.
    pub fn logits(&self, sequences: &[Sequence]) -> Tensor<2> {
        let batch = Batch::new(&self.config, sequences, Ask::Everything);
        let options = Forward::default();
        self.run(&batch, &options)
    }

    /// Logits that predict the labels of sequences, and the labels, sequence after sequence.
    pub fn labelled(&self, sequences: &[Sequence], options: &Forward) -> (Output<'_>, Vec<u32>) {
        let mut batch = Batch::new(&self.config, sequences, Ask::Labels);
        let targets = std::mem::take(&mut batch.targets);
        let (logits, tape) = match options.checkpointing {
            false => (self.run(&batch, options), None),
            true => {
                let (logits, tape) = OwnedTape::new(self, batch, options.clone());
                (logits, Some(Box::new(tape) as Box<dyn Tape>))
            }
        };
        let output = Output {
            logits,
            pooled: None,
            tape,
        };
        (output, targets)
    }

    fn run(&self, batch: &Batch, options: &Forward) -> Tensor<2> {
        let pass = Pass {
            model: self,
            options,
        };
        Chain::new(pass, batch).run(forward::patches(batch, self))
    }

    /// What flows between the blocks for some conversations, as Transformers' `output_hidden_states` gives it.
    pub fn hidden_states(&self, sequences: &[Sequence]) -> HiddenStates {
        let batch = Batch::new(&self.config, sequences, Ask::Everything);
        let options = Forward::default();
        let pass = Pass {
            model: self,
            options: &options,
        };
        pass.hidden_states(&batch)
    }

    /// Neighbours that ask the same question of the same image become one sequence with several answers.
    fn sequences(&self, examples: &[Example]) -> Result<Vec<Sequence>, VlmError> {
        let groups: Vec<&[Example]> = examples
            .chunk_by(|a, b| a.prompt.is_same(&b.prompt))
            .collect();
        use rayon::prelude::*;
        groups
            .into_par_iter()
            .map(|group| {
                Ok(Sequence {
                    id: group[0].prompt.id.clone(),
                    encoded: Arc::new(self.encode(&group[0].prompt)?),
                    answers: group.iter().map(|example| example.answer.clone()).collect(),
                })
            })
            .collect()
    }
}

/// What flows between the blocks, for the packed rows of a batch.
pub struct HiddenStates {
    /// For each merged image token in window order its place in the images' own order.
    pub window_index: Vec<u32>,
    /// After the patch embedding and after each block of the vision tower, in window order: `[patches, width]`.
    pub vision: Vec<Tensor<2>>,
    /// Merged image tokens in window order: `[tokens, decoder width]`.
    pub merged: Option<Tensor<2>>,
    /// The decoder's input, and what leaves each layer: `[rows, width]`.
    pub decoder: Vec<Tensor<2>>,
    /// After the last normalisation.
    pub last: Tensor<2>,
}

/// A tape that owns what it goes back through.
struct OwnedTape<'a> {
    model: &'a QwenVl,
    batch: Batch,
    options: Forward,
    inputs: Vec<Tensor<2>>,
}

impl<'a> OwnedTape<'a> {
    /// Runs the batch; gives the logits, and the tape to go back from them.
    fn new(model: &'a QwenVl, batch: Batch, options: Forward) -> (Tensor<2>, Self) {
        // burn keeps what a tracked pass has recorded until the next backward pass, even once its outputs are gone.
        let plain = model.without_gradients();
        let pass = Pass {
            model: &plain,
            options: &options,
        };
        let patches = forward::patches(&batch, &plain);
        let (logits, inputs) = Chain::new(pass, &batch).run_checkpointed(patches);
        let tape = Self {
            model,
            batch,
            options,
            inputs,
        };
        (logits, tape)
    }
}

impl Tape for OwnedTape<'_> {
    fn backward(self: Box<Self>, pull: Tensor<2>, take: &mut dyn FnMut(burn::tensor::Gradients)) {
        let pass = Pass {
            model: self.model,
            options: &self.options,
        };
        Chain::new(pass, &self.batch).backward(self.inputs, pull, take);
    }
}

impl VisionLanguageModel for QwenVl {
    fn tokenizer(&self) -> &dyn Tokenizer {
        self.processor.tokenizer()
    }

    fn params(&self) -> &ParamSet {
        &self.params
    }

    fn params_mut(&mut self) -> &mut ParamSet {
        // Whoever asks for them may change what is trainable.
        let base = |param: &Param| param.trainable && !lora::is_adapter(param);
        if self.files.unchanged && self.params.iter().any(base) {
            self.files.unchanged = false;
        }
        &mut self.params
    }

    fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<(), VlmError> {
        lora::add(self, config, seed)
    }

    fn merge_lora(&mut self) {
        lora::merge(self);
    }

    fn freeze(&mut self, groups: &BTreeSet<ModuleGroup>) -> Result<(), VlmError> {
        freeze(&mut self.params, self.lora.as_ref(), groups, |param| {
            if param.name.starts_with("model.visual.merger.") {
                ModuleGroup::Projector
            } else if param.name.starts_with("model.visual.") {
                ModuleGroup::Vision
            } else {
                ModuleGroup::Decoder
            }
        })
    }

    fn frozen(&self) -> Box<dyn VisionLanguageModel> {
        let mut copy = self.clone();
        copy.merge_lora();
        for param in copy.params.iter_mut() {
            param.set_trainable(false);
        }
        Box::new(copy)
    }

    fn set_pixels(&mut self, min: Option<usize>, max: Option<usize>) -> Result<(), VlmError> {
        Arc::make_mut(&mut self.processor).set_pixels(min, max)
    }

    fn can_checkpoint(&self) -> bool {
        true
    }

    fn shrink(&self, image: &RgbImage) -> Result<RgbImage, VlmError> {
        image.validate()?;
        self.processor.images().resized(image)
    }

    fn seen(&self, (width, height): (u32, u32)) -> Result<(u32, u32), VlmError> {
        self.processor.images().seen(width, height)
    }

    fn check(&self, prompt: &Prompt, answer: &[u32]) -> Result<(), VlmError> {
        prompt.validate()?;
        if answer.is_empty() {
            return Err(VlmError::Config(
                "an answer needs at least the end token".into(),
            ));
        }
        let options = Encode {
            generation_prompt: true,
            ..Encode::default()
        };
        let sizes: Vec<(u32, u32)> = prompt.images.iter().map(Picture::size).collect();
        let tokens = self
            .processor
            .count_tokens(&prompt.messages, &sizes, &options)?;
        let needed = tokens + answer.len();
        if needed > self.context() {
            return Err(VlmError::TooLong {
                what: format!("{:?} with its image and answer", prompt.text()),
                needed,
                room: self.context(),
            });
        }
        Ok(())
    }

    fn forward<'a>(&'a self, batch: &[Example], forward: &Forward) -> Result<Output<'a>, VlmError> {
        if batch.is_empty() {
            return Err(VlmError::Config(
                "a batch needs at least one example".into(),
            ));
        }
        let sequences = match forward.dropout {
            // Each example draws its own dropout, so rows of a prompt cannot be shared.
            Some(_) if self.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0) => {
                let apart = batch
                    .iter()
                    .map(|example| self.sequences(std::slice::from_ref(example)));
                apart.collect::<Result<Vec<_>, _>>()?.concat()
            }
            _ => self.sequences(batch)?,
        };
        Ok(self.labelled(&sequences, forward).0)
    }

    fn questions_at_once(&self) -> usize {
        self.group()
    }

    fn generate(
        &self,
        prompts: &[Prompt],
        generations: Range<u32>,
        sampling: &Sampling,
    ) -> Result<Vec<Vec<Completion>>, VlmError> {
        generate::generate(self, prompts, generations, sampling)
    }

    fn save(&self, dir: &Path) -> Result<(), VlmError> {
        files::save(self, dir)
    }
}

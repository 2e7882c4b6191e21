//! A micro vision-language model: a ViT patch encoder, a projector and a causal decoder that sees
//! `[image tokens][prompt][answer]`, small enough to pre-train in a minute.
//!
//! Learned positions in both towers, pre-norm blocks with exact GELU, a linear output head. Weights start as
//! N(0, 1/in); the two layers of a block that write into the residual stream at 0.3 of that; positions with a
//! standard deviation of 0.1, token embeddings 0.3, biases 0.

mod batch;
mod config;
mod files;
mod forward;
mod generate;
mod image;
mod interface;
mod memory;
mod modules;
mod tokenizer;

use std::sync::Arc;

use burn::tensor::{DType, Device};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{Message, Picture, Prompt, RgbImage, Role, Tokenizer};

use crate::lora;
use crate::modules::{Layers, Source, Weights};
use crate::quantize::Plan;
use modules::Modules;
use tokenizer::WordCharTokenizer;

pub use config::{BlocksConfig, MicroConfig};
pub use files::MODEL_TYPE;
pub use memory::MicroFootprint;

/// Where a prompt's text says that an image goes. This model always puts its one image first.
const IMAGE_PLACEHOLDER: &str = "<image>";

/// The micro VLM.
#[derive(Clone)]
pub struct MicroVlm {
    config: MicroConfig,
    tokenizer: WordCharTokenizer,
    modules: Modules,
    layers: Arc<Layers>,
    weights: Weights,
    eos: u32,
    /// With autodiff, except in a copy that only generates.
    device: Device,
}

impl MicroVlm {
    /// A fresh model; its weights are a function of `config` and `seed`.
    ///
    /// # Errors
    /// [`VlmError::Config`] where the sizes do not fit together or the vocabulary has doubles.
    pub fn new(config: MicroConfig, seed: u64, device: &Device) -> Result<Self, VlmError> {
        let std = &modules::first_deviation;
        Self::build(config, Source::Random { seed, std }, device)
    }

    fn build(config: MicroConfig, source: Source<'_>, device: &Device) -> Result<Self, VlmError> {
        config.validate()?;
        let tokenizer = WordCharTokenizer::new(&config.words, &config.characters)?;
        let mut layers = Layers::default();
        let modules = Modules::new(&mut layers, &config, tokenizer.vocab_size());
        Ok(Self {
            weights: crate::modules::weights(&layers, source, device, DType::F32, &Plan::NOTHING)?,
            eos: tokenizer.eos(),
            config,
            tokenizer,
            modules,
            layers: layers.into(),
            device: device.clone().autodiff(),
        })
    }

    /// The model's sizes.
    pub fn config(&self) -> &MicroConfig {
        &self.config
    }

    fn on_host(&self) -> bool {
        self.device == Device::flex()
    }

    /// Adds the adapters to the weights.
    fn merge(&mut self) {
        lora::merge(&self.layers, &mut self.weights, DType::F32);
    }

    /// A copy with the adapters merged and nothing to train.
    fn merged(&self) -> Self {
        let mut copy = self.clone();
        copy.merge();
        for param in copy.weights.params.iter_mut() {
            param.set_trainable(false);
        }
        copy
    }

    /// As [`MicroVlm::merged`], without autodiff.
    fn plain(&self) -> Self {
        let mut copy = self.clone();
        copy.merge();
        copy.weights = copy.weights.without_gradients();
        copy.device = copy.device.inner();
        copy
    }

    /// The image's patches as the encoder takes them.
    fn patches(&self, image: &RgbImage) -> Result<Vec<u8>, VlmError> {
        image::patches(image, self.config.image_size, self.config.patch_size)
    }

    /// The one image of a prompt that is one question.
    pub(crate) fn image<'a>(&self, prompt: &'a Prompt) -> Result<&'a Picture, VlmError> {
        let problem = match (&prompt.messages[..], &prompt.images[..]) {
            ([question], [image]) if question.role == Role::User => return Ok(image),
            ([Message { role, .. }, ..], _) if *role == Role::System => {
                let system = prompt.messages[0].text().unwrap_or_default();
                format!("the micro model has no place for a system message: {system:?}")
            }
            (_, images) => format!(
                "the micro model takes one question about one image, and the conversation has {} messages and {} images",
                prompt.messages.len(),
                images.len()
            ),
        };
        Err(VlmError::Config(problem))
    }

    /// The prompt's tokens, once it is sure that they fit together with `answer`.
    fn prompt_tokens(&self, prompt: &Prompt, answer: &[u32]) -> Result<Vec<u32>, VlmError> {
        self.image(prompt)?;
        let text = prompt.text();
        let placeholders = prompt.images.len() + text.matches(IMAGE_PLACEHOLDER).count();
        if placeholders > 1 {
            return Err(VlmError::Config(format!(
                "the prompt has {placeholders} {IMAGE_PLACEHOLDER} placeholders, and the model takes one image: {text:?}"
            )));
        }
        let tokens = self.tokenizer.encode(&text)?;
        if answer.is_empty() {
            return Err(VlmError::Config(
                "an answer needs at least the end token".into(),
            ));
        }
        if let Some(token) = answer
            .iter()
            .find(|&&token| token as usize >= self.tokenizer.vocab_size())
        {
            return Err(VlmError::Config(format!(
                "the answer has the token {token}, and the vocabulary ends at {}",
                self.tokenizer.vocab_size() - 1
            )));
        }
        let needed = tokens.len() + answer.len() - 1;
        if needed > self.config.max_text_tokens {
            return Err(VlmError::TooLong {
                what: format!("{text:?} with its answer"),
                needed,
                room: self.config.max_text_tokens,
            });
        }
        Ok(tokens)
    }
}

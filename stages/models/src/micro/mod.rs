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
mod memory;
mod modules;
mod tokenizer;
mod weights;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};

pub use config::{BlocksConfig, MicroConfig};
pub use files::MODEL_TYPE;
pub use memory::MicroFootprint;

use dcsft_tensor::ops::{self, Activation};
use dcsft_tensor::params::{Param, ParamSet};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup, freeze};
use dcsft_vlm::model::{
    Completion, Example, Forward, Message, Output, Picture, Prompt, RgbImage, Role, Sampling,
    Tokenizer, VisionLanguageModel,
};

use tokenizer::WordCharTokenizer;

/// Epsilon of every layer normalisation.
pub(crate) const NORM_EPSILON: f64 = 1e-5;

/// Where a prompt's text says that an image goes. This model always puts its one image first.
const IMAGE_PLACEHOLDER: &str = "<image>";

/// The micro VLM.
#[derive(Clone)]
pub struct MicroVlm {
    config: MicroConfig,
    tokenizer: WordCharTokenizer,
    modules: modules::Modules,
    params: ParamSet,
    lora: Option<LoraConfig>,
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
        config.validate()?;
        let tokenizer = WordCharTokenizer::new(&config.words, &config.characters)?;
        let (modules, params) = modules::initialise(&config, tokenizer.vocab_size(), seed, device);
        Ok(Self {
            eos: tokenizer.eos(),
            config,
            tokenizer,
            modules,
            params,
            lora: None,
            device: device.clone().autodiff(),
        })
    }

    /// Reads a model that [`VisionLanguageModel::save`] wrote, with its adapters if it has any.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, VlmError> {
        files::load(dir, device)
    }

    /// The model's sizes.
    pub fn config(&self) -> &MicroConfig {
        &self.config
    }

    fn on_host(&self) -> bool {
        self.device == Device::flex()
    }

    fn modules(&self) -> &modules::Modules {
        &self.modules
    }

    /// A copy with the adapters merged and nothing to train.
    fn merged(&self) -> Self {
        let mut copy = self.clone();
        copy.merge_lora();
        for param in copy.params.iter_mut() {
            param.set_trainable(false);
        }
        copy
    }

    /// As [`MicroVlm::merged`], without autodiff.
    fn plain(&self) -> Self {
        let mut copy = self.merged();
        for param in copy.params.iter_mut() {
            param.value = param.value.clone().inner();
        }
        copy.device = copy.device.inner();
        copy
    }

    /// The image's patches as the encoder takes them.
    fn patches(&self, image: &RgbImage) -> Result<Vec<f32>, VlmError> {
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

impl VisionLanguageModel for MicroVlm {
    fn tokenizer(&self) -> &dyn Tokenizer {
        &self.tokenizer
    }

    fn params(&self) -> &ParamSet {
        &self.params
    }

    fn params_mut(&mut self) -> &mut ParamSet {
        &mut self.params
    }

    fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }

    /// An adapter's `a` is uniform in ±1/sqrt(in) at first, `b` zero.
    fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<(), VlmError> {
        config.validate()?;
        if self.lora.is_some() {
            return Err(VlmError::Config(
                "the model has adapters already; merge them into its weights first".into(),
            ));
        }
        if config.target_modules.is_some() {
            return Err(VlmError::Config(
                "lora.target_modules goes with models of Hugging Face's layout; a micro model's adapters are on whole groups"
                    .into(),
            ));
        }
        for param in self.params.iter_mut() {
            param.set_trainable(false);
        }
        for (group, layer) in self.modules.adaptable() {
            if !config.targets.contains(&group) {
                continue;
            }
            let [input, _] = self.params.get(layer.weight).dims();
            let [_, output] = self.params.get(layer.bias).dims();
            let name = format!("{}.lora_A.weight", layer.name);
            let bound = 1.0 / libm::sqrt(input as f64);
            let mut stream = StreamKey::new("lora", seed).text(&name).stream();
            let a = (0..input * config.rank)
                .map(|_| stream.range(-bound, bound) as f32)
                .collect();
            let mut push = |name: String, values: Vec<f32>, shape: [usize; 2]| {
                let value =
                    Tensor::from_data(TensorData::new(values, shape), &self.device).require_grad();
                self.params.push(Param {
                    name,
                    value,
                    trainable: true,
                    decay: true,
                })
            };
            let a = push(name, a, [input, config.rank]);
            let b = push(
                format!("{}.lora_B.weight", layer.name),
                vec![0.0; config.rank * output],
                [config.rank, output],
            );
            layer.adapter = Some((a, b));
        }
        self.lora = Some(config.clone());
        Ok(())
    }

    fn merge_lora(&mut self) {
        let Some(lora) = self.lora.take() else { return };
        let mut adapters = Vec::new();
        for (_, layer) in self.modules.adaptable() {
            let Some((a, b)) = layer.adapter.take() else {
                continue;
            };
            let [a_value, b_value] = [a, b].map(|id| self.params.get(id).clone().inner());
            let product = ops::linear(a_value, &b_value, None, None, Activation::None);
            adapters.extend([a, b].map(|id| self.params.get_mut(id).name.clone()));
            let param = self.params.get_mut(layer.weight);
            param.value = (param.value.clone().inner() + product * lora.scale()).autodiff();
        }
        self.params.retain(|param| !adapters.contains(&param.name));
        for param in self.params.iter_mut() {
            param.set_trainable(true);
        }
    }

    fn freeze(&mut self, groups: &BTreeSet<ModuleGroup>) -> Result<(), VlmError> {
        freeze(
            &mut self.params,
            self.lora.as_ref(),
            groups,
            |param| match param.name.split_once('.') {
                Some(("vision", _)) => ModuleGroup::Vision,
                Some(("projector", _)) => ModuleGroup::Projector,
                _ => ModuleGroup::Decoder,
            },
        )
    }

    fn frozen(&self) -> Box<dyn VisionLanguageModel> {
        Box::new(self.merged())
    }

    /// Its operations are too small to be worth sharing out among threads.
    fn twin(&self) -> Option<Box<dyn VisionLanguageModel>> {
        self.on_host().then(|| {
            let mut twin = self.clone();
            twin.params.detach();
            Box::new(twin) as Box<dyn VisionLanguageModel>
        })
    }

    fn shrink(&self, image: &RgbImage) -> Result<RgbImage, VlmError> {
        image::resize(image, self.config.image_size)
    }

    fn seen(&self, _size: (u32, u32)) -> Result<(u32, u32), VlmError> {
        let side = u32::try_from(self.config.image_size).unwrap_or(u32::MAX);
        Ok((side, side))
    }

    fn set_pixels(&mut self, min: Option<usize>, max: Option<usize>) -> Result<(), VlmError> {
        let given = [("min_pixels", min), ("max_pixels", max)];
        match given.into_iter().find(|(_, limit)| limit.is_some()) {
            None => Ok(()),
            Some((name, _)) => Err(VlmError::Config(format!(
                "`{name}` has no effect on a micro model: every image becomes {side} x {side} pixels; take it out",
                side = self.config.image_size
            ))),
        }
    }

    fn check(&self, prompt: &Prompt, answer: &[u32]) -> Result<(), VlmError> {
        prompt.validate()?;
        self.prompt_tokens(prompt, answer).map(drop)
    }

    fn forward<'a>(&'a self, batch: &[Example], forward: &Forward) -> Result<Output<'a>, VlmError> {
        forward::forward(self, batch, forward)
    }

    fn questions_at_once(&self) -> usize {
        generate::AT_ONCE
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

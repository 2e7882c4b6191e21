//! A model in Hugging Face's layout as trainers, rollouts and evaluations take it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use dcsft_tensor::params::{Param, ParamSet};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::model::{
    Below, Completion, Example, Forward, Output, Picture, Prompt, RgbImage, Sampling, Tokenizer,
    VisionLanguageModel,
};

use crate::model::HubModel;
use crate::processor::Encode;
use crate::{files, generate, lora, modules};

impl VisionLanguageModel for HubModel {
    fn tokenizer(&self) -> &dyn Tokenizer {
        self.processor.tokenizer()
    }

    fn params(&self) -> &ParamSet {
        &self.weights.params
    }

    fn params_mut(&mut self) -> &mut ParamSet {
        // Whoever asks for them may change what is trainable.
        let base = |param: &Param| param.trainable && !lora::is_adapter(param);
        if self.files.unchanged && self.weights.params.iter().any(base) {
            self.files.unchanged = false;
        }
        &mut self.weights.params
    }

    fn lora(&self) -> Option<&LoraConfig> {
        self.weights.lora.as_ref()
    }

    fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<(), VlmError> {
        let Self {
            config: model,
            weights,
            device,
            files,
            ..
        } = self;
        if weights.lora.is_some() && files.is_quantised() {
            return lora::go_on(&model.layers, weights, config);
        }
        lora::add(&model.layers, weights, device, config, seed)
    }

    fn merge_lora(&mut self) -> Result<(), VlmError> {
        if self.is_quantised() && self.lora().is_some() {
            return Err(VlmError::Config(format!(
                "adapters cannot be merged into quantised weights (`quantize: {}`): the sum would be quantised anew, and \
                 compute something else",
                self.files.settings.quantize
            )));
        }
        self.merge();
        Ok(())
    }

    fn is_quantised(&self) -> bool {
        self.files.is_quantised()
    }

    fn freeze(&mut self, groups: &BTreeSet<ModuleGroup>) -> Result<(), VlmError> {
        if self.is_quantised() && self.lora().is_none() && !groups.is_empty() {
            return Err(VlmError::Config(format!(
                "freeze goes with training of all weights, and none of a quantised model is trained (`quantize: {}`); \
                 train adapters, whose lora.targets says which layers get some",
                self.files.settings.quantize
            )));
        }
        modules::freeze(&self.config.layers, &mut self.weights, groups)
    }

    fn frozen(&self) -> Box<dyn VisionLanguageModel> {
        let mut copy = self.clone();
        // Merged into a quantised base, adapters would compute something else.
        if !self.is_quantised() {
            copy.merge();
        }
        for param in copy.weights.params.iter_mut() {
            param.set_trainable(false);
        }
        Box::new(copy)
    }

    fn replica(&self, device: &Device) -> Box<dyn VisionLanguageModel> {
        let mut copy = self.clone();
        copy.weights.params = self.weights.params.copy_to(device);
        copy.device = device.clone().autodiff();
        Box::new(copy)
    }

    fn unadapted(&self) -> Box<dyn VisionLanguageModel> {
        let mut copy = self.clone();
        copy.weights = self.weights.unadapted();
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
        self.processor.images().shrunk(image)
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
        let sizes: Vec<(u32, u32)> = prompt.images.iter().map(Picture::size).collect();
        let tokens = self
            .processor
            .count_tokens(&prompt.messages, &sizes, &Encode::PROMPT)?;
        let needed = tokens + answer.len();
        if needed > self.context() {
            let images = match sizes.len() {
                0 => "its",
                1 => "its image and",
                _ => "its images and",
            };
            return Err(VlmError::TooLong {
                what: format!("{:?} with {images} answer", prompt.text()),
                needed,
                room: self.context(),
            });
        }
        Ok(())
    }

    fn earlier_answers(&self, prompt: &Prompt) -> Result<Vec<u32>, VlmError> {
        Ok(self.labels(prompt)?.into_iter().flatten().collect())
    }

    fn forward<'a>(&'a self, batch: &[Example], forward: &Forward) -> Result<Output<'a>, VlmError> {
        let sequences = self.learnt(batch, forward)?;
        Ok(self.labelled(&sequences, forward).0)
    }

    fn forward_below<'a>(
        &'a self,
        batch: &[Example],
        forward: &Forward,
    ) -> Result<Option<Below<'a>>, VlmError> {
        let sequences = self.learnt(batch, forward)?;
        Ok(Some(self.below(&sequences, forward)))
    }

    fn questions_at_once(&self) -> usize {
        self.group().questions()
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

//! The micro model as trainers, rollouts and evaluations take it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use burn::tensor::Device;
use dcsft_tensor::params::ParamSet;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::model::{
    Completion, Example, Forward, Output, Prompt, RgbImage, Sampling, Tokenizer,
    VisionLanguageModel,
};

use super::{MicroVlm, files, forward, generate, image};
use crate::{lora, modules};

impl VisionLanguageModel for MicroVlm {
    fn tokenizer(&self) -> &dyn Tokenizer {
        &self.tokenizer
    }

    fn params(&self) -> &ParamSet {
        &self.weights.params
    }

    fn params_mut(&mut self) -> &mut ParamSet {
        &mut self.weights.params
    }

    fn lora(&self) -> Option<&LoraConfig> {
        self.weights.lora.as_ref()
    }

    fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<(), VlmError> {
        lora::add(&self.layers, &mut self.weights, &self.device, config, seed)
    }

    fn merge_lora(&mut self) -> Result<(), VlmError> {
        self.merge();
        Ok(())
    }

    fn freeze(&mut self, groups: &BTreeSet<ModuleGroup>) -> Result<(), VlmError> {
        modules::freeze(&self.layers, &mut self.weights, groups)
    }

    fn frozen(&self) -> Box<dyn VisionLanguageModel> {
        Box::new(self.merged())
    }

    /// Its operations are too small to be worth sharing out among threads.
    fn twin(&self) -> Option<Box<dyn VisionLanguageModel>> {
        self.on_host().then(|| {
            let mut twin = self.clone();
            twin.weights.params.detach();
            Box::new(twin) as Box<dyn VisionLanguageModel>
        })
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

    fn shrink(&self, image: &RgbImage) -> Result<RgbImage, VlmError> {
        image::resize(image, self.config.image_size)
    }

    fn seen(&self, _size: (u32, u32)) -> Result<(u32, u32), VlmError> {
        let side = u32::try_from(self.config.image_size).unwrap_or(u32::MAX);
        Ok((side, side))
    }

    fn set_pixels(&mut self, min: Option<usize>, max: Option<usize>) -> Result<(), VlmError> {
        self.config.check_pixels(min, max)
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

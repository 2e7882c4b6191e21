//! The micro model as trainers, rollouts and evaluations take it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use dcsft_tensor::ops::{self, Activation};
use dcsft_tensor::params::{Param, ParamSet};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup, freeze};
use dcsft_vlm::model::{
    Completion, Example, Forward, Output, Prompt, RgbImage, Sampling, Tokenizer,
    VisionLanguageModel,
};

use super::{MicroVlm, files, forward, generate, image};

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

//! What a GRPO run learns from.

use crate::model::{Prompt, VisionLanguageModel};
use crate::train::error::TrainError;

/// The reward of an answer: from a prompt's index and the answer's text. It must be a pure function. NaN means
/// that the answer cannot be scored.
pub type Reward<'a> = &'a (dyn Fn(usize, &str) -> f32 + Sync);

/// What a run learns from.
#[derive(Clone, Copy)]
pub struct GrpoData<'a> {
    /// The prompts.
    pub prompts: &'a [Prompt],
    /// Difficulty bin of each prompt, to tell where the gradient comes from; empty puts all into bin 0.
    pub difficulty: &'a [usize],
    /// How many bins there are, at least 1.
    pub bins: usize,
}

impl GrpoData<'_> {
    pub(super) fn bin(&self, index: usize) -> usize {
        self.difficulty.get(index).copied().unwrap_or(0)
    }

    pub(super) fn check(&self, model: &dyn VisionLanguageModel) -> Result<(), TrainError> {
        if self.prompts.is_empty() {
            return Err(TrainError::Data("there are no prompts".to_owned()));
        }
        if !self.difficulty.is_empty() && self.difficulty.len() != self.prompts.len() {
            let (bins, prompts) = (self.difficulty.len(), self.prompts.len());
            return Err(TrainError::Data(format!(
                "{bins} difficulty bins are given for {prompts} prompts"
            )));
        }
        if let Some(bin) = self
            .difficulty
            .iter()
            .chain([&0])
            .find(|&&bin| bin >= self.bins)
        {
            return Err(TrainError::Data(format!(
                "a prompt is in bin {bin}, and there are {} bins",
                self.bins
            )));
        }
        let end = [model.tokenizer().eos()];
        self.prompts
            .iter()
            .try_for_each(|prompt| model.check(prompt, &end).map_err(TrainError::from))
    }

    pub(super) fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (index, prompt) in self.prompts.iter().enumerate() {
            hasher
                .update(&(prompt.id.len() as u64).to_le_bytes())
                .update(prompt.id.as_bytes());
            hasher.update(&(self.bin(index) as u64).to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

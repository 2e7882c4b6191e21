//! What a GRPO run learns from.

use crate::model::{Prompt, VisionLanguageModel};
use crate::train::error::TrainError;

/// What answers are worth.
pub type Reward<'a> = &'a (dyn Score + Sync);

/// Scores answers. Any function of a prompt's index and an answer's text does.
pub trait Score {
    /// The rewards of answers to the prompt with this index, in their order. It must be a pure function. NaN means that
    /// an answer cannot be scored.
    ///
    /// # Errors
    /// Why there are no rewards at all.
    fn score(&self, prompt: usize, answers: &[String]) -> Result<Vec<f32>, String>;
}

impl<F: Fn(usize, &str) -> f32> Score for F {
    fn score(&self, prompt: usize, answers: &[String]) -> Result<Vec<f32>, String> {
        Ok(answers.iter().map(|answer| self(prompt, answer)).collect())
    }
}

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

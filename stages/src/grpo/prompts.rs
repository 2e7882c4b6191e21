//! The prompts of a run, in memory.

use dcsft_engine::stage::{StageContext, StageError};
use dcsft_vlm::model::{Prompt, VisionLanguageModel};
use dcsft_vlm::train::grpo::Score;

use crate::answers::fit;
use crate::data::{Dataset, Shown};
use crate::misfit::{Dropped, OnError};
use crate::reward::{Asked, Grader, Reward};

/// The samples that can be asked about and scored, in the set's order.
pub(super) struct PromptSet {
    pub(super) prompts: Vec<Prompt>,
    /// The question of each, as its list has it.
    pub(super) questions: Vec<String>,
    /// The right answer to each.
    pub(super) answers: Vec<String>,
    /// Samples left out.
    pub(super) dropped: Dropped,
}

impl PromptSet {
    pub(super) fn load(
        ctx: &mut StageContext,
        data: &Dataset,
        model: &dyn VisionLanguageModel,
        reward: &Reward,
        on_error: OnError,
    ) -> Result<Self, StageError> {
        let all = crate::training::prompts(data, model, true);
        let mut dropped = Dropped::new(on_error, "log");
        let (mut prompts, mut questions, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for (sample, prompt) in data.samples().iter().zip(all) {
            match fit(model, sample, prompt, reward, None)? {
                Ok(prompt) => {
                    prompts.push(prompt);
                    questions.push(sample.prompt.clone());
                    answers.push(Shown::new(sample, model).right().into_owned());
                }
                Err(misfit) => dropped.add(ctx, misfit)?,
            }
        }
        dropped.ensure_some_left(data.len(), "train on")?;
        Ok(Self {
            prompts,
            questions,
            answers,
            dropped,
        })
    }
}

/// Scores answers to a run's prompts.
pub(super) struct Scorer<'a> {
    pub(super) prompts: &'a [Prompt],
    pub(super) questions: &'a [String],
    pub(super) answers: &'a [String],
    pub(super) grader: Grader<'a>,
}

impl Score for Scorer<'_> {
    fn score(&self, prompt: usize, answers: &[String]) -> Result<Vec<f32>, String> {
        let asked = answers.iter().map(|completion| Asked {
            id: &self.prompts[prompt].id,
            prompt: &self.questions[prompt],
            completion,
            answer: &self.answers[prompt],
        });
        self.grader.grade(&asked.collect::<Vec<_>>())
    }
}

//! Group-relative policy optimisation (GRPO): the model draws several answers to each prompt, and learns from
//! how each one's reward compares with the others of its group.
//!
//! A step draws its answers with the current policy, scores them, and makes one or more updates from them. Adapters'
//! dropout acts where the policy is differentiated, and neither where it draws answers nor in the reference. The
//! log-probabilities that the ratio compares with are those of the first update's own pass, as in TRL: its ratio is
//! exactly 1, and later updates, which draw dropout of their own, compare with it.

pub mod advantage;
mod config;
pub mod loss;
mod record;
mod rollout;
mod update;

use std::path::Path;

use serde::Serialize;

use crate::model::{Prompt, VisionLanguageModel};
use crate::train::adamw::AdamW;
use crate::train::check;
use crate::train::error::TrainError;
use crate::train::order::Order;
use crate::train::schedule::LearningRate;
use crate::train::state::{self, Header};
use crate::train::trainer::Trainer;

pub use config::GrpoConfig;
pub use record::{BinGradient, BinShare, GrpoRecord, GrpoSummary};
use rollout::{Drawn, Rollout};

/// The reward of an answer: from a prompt's index and the answer's text. It must be a pure function. NaN means
/// that the answer cannot be scored.
pub type Reward<'a> = &'a dyn Fn(usize, &str) -> f32;

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
    fn bin(&self, index: usize) -> usize {
        self.difficulty.get(index).copied().unwrap_or(0)
    }

    fn check(&self, model: &dyn VisionLanguageModel) -> Result<(), TrainError> {
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

    fn digest(&self) -> String {
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

/// A GRPO run.
pub struct GrpoTrainer<'a> {
    config: GrpoConfig,
    model: &'a mut dyn VisionLanguageModel,
    reference: Option<&'a dyn VisionLanguageModel>,
    data: GrpoData<'a>,
    reward: Reward<'a>,
    optimizer: AdamW,
    order: Order,
    rate: LearningRate,
    header: Header,
    log: Vec<GrpoRecord>,
    /// Lines of JSON, if they are kept.
    completions: Option<Vec<u8>>,
}

/// A line about a drawn answer.
#[derive(Serialize)]
struct CompletionLine<'a> {
    /// The step, counted from 1.
    step: usize,
    /// The prompt's content ID.
    id: &'a str,
    completion: &'a str,
    /// None where it could not be scored.
    reward: Option<f32>,
    advantage: f32,
}

impl<'a> GrpoTrainer<'a> {
    /// A run that trains the trainable weights of `model`. `reference` is the frozen model that the KL term
    /// holds the policy to (a copy of the model at the start, none of its weights trainable); it is not used where
    /// `beta` is 0.
    ///
    /// # Errors
    /// [`TrainError::Config`] for a setting, or for a missing reference; [`TrainError::Data`] or
    /// [`TrainError::Model`] for a prompt.
    pub fn new(
        config: GrpoConfig,
        model: &'a mut dyn VisionLanguageModel,
        reference: Option<&'a dyn VisionLanguageModel>,
        data: GrpoData<'a>,
        reward: Reward<'a>,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        check::checkpointing(config.gradient_checkpointing, model)?;
        data.check(model)?;
        let reference = reference.filter(|_| config.beta != 0.0);
        if config.beta != 0.0 && reference.is_none() {
            return Err(TrainError::config(
                "beta",
                config.beta,
                "it needs a reference model; 0 does without",
            ));
        }
        // A forward pass over trainable weights records what a backward pass needs, and none ever comes.
        if reference.is_some_and(|reference| reference.params().iter().any(|param| param.trainable))
        {
            let problem = "the reference model's weights are trainable; it must be frozen";
            return Err(TrainError::Data(problem.to_owned()));
        }
        let header = Header::new("grpo", &config, data.digest())?;
        Ok(Self {
            optimizer: AdamW::new(config.adamw()),
            order: config.order(data.prompts.len()),
            rate: config.rate(config.total_steps(data.prompts.len())),
            config,
            model,
            reference,
            data,
            reward,
            header,
            log: Vec::new(),
            completions: None,
        })
    }

    /// Writes down every answer that is drawn, with reward and advantage; before the first step.
    pub fn keep_completions(&mut self) {
        self.completions = Some(Vec::new());
    }

    /// The answers drawn so far, one line of JSON each: `{step, id, completion, reward, advantage}`, `id` the prompt's. None
    /// unless they are [kept](Self::keep_completions).
    pub fn completions(&self) -> Option<&[u8]> {
        self.completions.as_deref()
    }

    fn write_completions(&mut self, step: usize, drawn: &[Drawn]) -> Result<(), TrainError> {
        let Some(lines) = &mut self.completions else {
            return Ok(());
        };
        for answer in drawn {
            let line = CompletionLine {
                step: step + 1,
                id: &self.data.prompts[answer.prompt].id,
                completion: &self.model.tokenizer().decode_answer(&answer.tokens),
                reward: (!answer.reward.is_nan()).then_some(answer.reward),
                advantage: answer.advantage,
            };
            serde_json::to_writer(&mut *lines, &line)
                .map_err(|error| TrainError::Data(error.to_string()))?;
            lines.push(b'\n');
        }
        Ok(())
    }

    /// What the steps made so far come to.
    pub fn summary(&self) -> GrpoSummary {
        GrpoSummary::of(&self.log, self.data.bins)
    }
}

impl Trainer for GrpoTrainer<'_> {
    type Record = GrpoRecord;

    fn total_steps(&self) -> usize {
        self.rate.total / self.config.updates_per_batch
    }

    fn save_steps(&self) -> usize {
        self.config.save_steps
    }

    fn log(&self) -> &[GrpoRecord] {
        &self.log
    }

    fn model(&self) -> &dyn VisionLanguageModel {
        self.model
    }

    /// Draws the answers of one step and makes its updates.
    fn step(&mut self) -> Result<&GrpoRecord, TrainError> {
        let step = self.steps_done();
        let indices = self.order.batch(step);
        let mut rollout = Rollout::draw(
            &self.config,
            self.model,
            &self.data,
            self.reward,
            step,
            &indices,
        )?;
        self.write_completions(step, &rollout.drawn)?;
        rollout.record.step = step + 1;
        rollout.record.epoch = self.order.epochs(step + 1);
        self.score_by_reference(&mut rollout)?;
        for update in 0..self.config.updates_per_batch {
            self.update(step, update, &mut rollout)?;
        }
        self.log.push(rollout.record);
        Ok(&self.log[step])
    }

    fn save_state(&self, dir: &Path, owner: &str) -> Result<(), TrainError> {
        let (header, sets) = (self.header.owned_by(owner), [self.model.params()]);
        let completions = self.completions.as_deref().unwrap_or_default();
        let records = (&self.log[..], completions);
        state::save(dir, &header, records, &sets, &self.optimizer)
    }

    fn restore(&mut self, dir: &Path, owner: &str) -> Result<(), TrainError> {
        let (rate, updates, total) = (self.rate, self.config.updates_per_batch, self.total_steps());
        let mut sets = [self.model.params_mut()];
        let rates = |step: usize| rate.at(step * updates + updates - 1);
        let records = state::restore(
            dir,
            &self.header.owned_by(owner),
            &mut sets,
            &mut self.optimizer,
            total,
            &rates,
        )?;
        self.log = records.log;
        if let Some(completions) = &mut self.completions {
            *completions = records.notes;
        }
        Ok(())
    }
}

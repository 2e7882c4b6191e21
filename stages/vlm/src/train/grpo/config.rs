//! Settings of group-relative policy optimisation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::generate::LOWEST_TEMPERATURE;
use crate::train::adamw::AdamWSettings;
use crate::train::check;
use crate::train::error::TrainError;
use crate::train::grpo::advantage::ScaleRewards;
use crate::train::grpo::loss::{LossType, Objective};
use crate::train::order::{LastBatch, Order};
use crate::train::schedule::{LearningRate, Schedule};

/// Settings of group-relative policy optimisation (GRPO); names as in TRL, defaults as in the study's paper
/// where it states them, else as in TRL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoConfig {
    /// Rounds of drawing answers and learning from them. Give this or `epochs`.
    #[schemars(range(min = 1))]
    pub steps: Option<usize>,
    /// Passes over the prompts; a part of one may be given. 1 where neither this nor `steps` is given.
    pub epochs: Option<f64>,
    /// Prompts per step.
    #[schemars(range(min = 1))]
    pub prompts_per_step: usize,
    /// Answers drawn for each prompt: the group that its advantages are relative to.
    #[schemars(range(min = 2))]
    pub generations: usize,
    /// Temperature at which answers are drawn, and at which their log-probabilities are taken.
    pub temperature: f64,
    /// Answers are drawn from the smallest set of tokens whose probability reaches it; 1 switches it off.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: f64,
    /// Answers are drawn from the k most likely tokens; 0 switches it off.
    pub top_k: usize,
    /// Answers end here at the latest.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// Updates of the weights per step from each of its minibatches, all from the same answers (TRL's
    /// `num_iterations`).
    #[schemars(range(min = 1))]
    pub updates_per_batch: usize,
    /// Minibatches that the answers of a step are dealt out to, each for an update of its own.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(range(min = 1))]
    pub steps_per_generation: usize,
    /// Weight of the KL divergence to the reference, the model at the run's start; 0 does without a reference.
    #[schemars(range(min = 0.0))]
    pub beta: f64,
    /// Multiply the KL term by the probability ratio, as TRL's `use_bias_correction_kl` does.
    pub kl_bias_correction: bool,
    /// How far the probability ratio may fall below 1 before it is clipped.
    #[schemars(range(min = 0.0))]
    pub epsilon: f64,
    /// How far it may rise above 1; `epsilon` where not given.
    #[schemars(range(min = 0.0))]
    pub epsilon_high: Option<f64>,
    /// How token losses are averaged: `grpo`, `bnpo`, `dr_grpo` or `dapo`.
    pub loss_type: LossType,
    /// What advantages are divided by: the deviation of the `group`, of the `batch`, or `none`.
    pub scale_rewards: ScaleRewards,
    /// Answers per forward and backward pass; 0 takes all of a step at once. Fewer take less memory; the loss is
    /// that of the whole step all the same.
    pub forward_batch: usize,
    /// Keep only what goes into each block and compute the block again for its gradient: less memory, about a third
    /// more time. Refused for the micro model, whose blocks are too small.
    pub gradient_checkpointing: bool,
    /// Highest learning rate.
    #[schemars(range(min = 0.0))]
    pub learning_rate: f64,
    /// Shape of the learning rate after the warm-up.
    pub schedule: Schedule,
    /// Steps in which the learning rate rises from 0; wins over `warmup_ratio`.
    pub warmup_steps: Option<usize>,
    /// Part of the steps in which the learning rate rises from 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warmup_ratio: f64,
    /// Where the schedule ends, as a part of `learning_rate`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_lr_ratio: f64,
    /// Decoupled weight decay of AdamW, on matrices only.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Decay rates of AdamW's two moments.
    pub betas: [f64; 2],
    /// Added to AdamW's denominator.
    #[schemars(range(min = 0.0))]
    pub eps: f64,
    /// Gradients are scaled down to this norm; 0 switches clipping off.
    #[schemars(range(min = 0.0))]
    pub max_grad_norm: f64,
    /// Steps between checkpoints; 0 keeps the last only.
    pub save_steps: usize,
    /// Seed of the order of prompts and of the drawn answers.
    pub seed: u64,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: None,
            prompts_per_step: 16,
            generations: 8,
            temperature: 0.9,
            top_p: 1.0,
            top_k: 0,
            max_new_tokens: 128,
            updates_per_batch: 1,
            steps_per_generation: 1,
            beta: 0.04,
            kl_bias_correction: false,
            epsilon: 0.2,
            epsilon_high: None,
            loss_type: LossType::Grpo,
            scale_rewards: ScaleRewards::Group,
            forward_batch: 0,
            gradient_checkpointing: false,
            learning_rate: 1e-5,
            schedule: Schedule::Cosine,
            warmup_steps: None,
            warmup_ratio: 0.1,
            min_lr_ratio: 0.0,
            weight_decay: 0.1,
            betas: [0.9, 0.999],
            eps: 1e-8,
            max_grad_norm: 1.0,
            save_steps: 0,
            seed: 0,
        }
    }
}

impl GrpoConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`TrainError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), TrainError> {
        check::length(self.steps, self.epochs)?;
        if self.generations < 2 {
            return Err(TrainError::config(
                "generations",
                self.generations,
                "it must be at least 2: an advantage compares answers to the same prompt",
            ));
        }
        if !(self.temperature.is_finite() && self.temperature >= LOWEST_TEMPERATURE) {
            return Err(TrainError::config(
                "temperature",
                self.temperature,
                format!("it must be a number of at least {LOWEST_TEMPERATURE}"),
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(TrainError::config(
                "top_p",
                self.top_p,
                "it must be above 0 and at most 1",
            ));
        }
        check::positive("prompts_per_step", self.prompts_per_step)?;
        check::positive("max_new_tokens", self.max_new_tokens)?;
        check::positive("updates_per_batch", self.updates_per_batch)?;
        check::positive("steps_per_generation", self.steps_per_generation)?;
        let answers = self.prompts_per_step * self.generations;
        if !answers.is_multiple_of(self.steps_per_generation) {
            return Err(TrainError::config(
                "steps_per_generation",
                self.steps_per_generation,
                format!(
                    "it must divide the {answers} answers of a step (`prompts_per_step` times `generations`), so that its \
                     minibatches are equal"
                ),
            ));
        }
        check::not_negative("beta", self.beta)?;
        check::fraction("epsilon", self.epsilon)?;
        check::not_negative("epsilon_high", self.objective().epsilon_high)?;
        check::not_negative("learning_rate", self.learning_rate)?;
        check::fraction("warmup_ratio", self.warmup_ratio)?;
        check::fraction("min_lr_ratio", self.min_lr_ratio)?;
        check::adamw(&self.adamw())
    }

    /// Steps of a run over `prompts` prompts.
    pub fn total_steps(&self, prompts: usize) -> usize {
        self.steps
            .unwrap_or_else(|| self.order(prompts).steps(self.epochs.unwrap_or(1.0)))
    }

    /// The constants of the loss.
    pub fn objective(&self) -> Objective {
        Objective {
            epsilon: self.epsilon,
            epsilon_high: self.epsilon_high.unwrap_or(self.epsilon),
            beta: self.beta,
            kl_bias_correction: self.kl_bias_correction,
        }
    }

    pub(super) fn order(&self, prompts: usize) -> Order {
        Order::new(prompts, self.prompts_per_step, LastBatch::Fill, self.seed)
    }

    /// Updates of the weights per step.
    pub fn updates(&self) -> usize {
        self.updates_per_batch * self.steps_per_generation
    }

    /// The learning rate of each update.
    pub(super) fn rate(&self, total: usize) -> LearningRate {
        let warmup = LearningRate::warmup_steps(self.warmup_steps, self.warmup_ratio, total);
        LearningRate {
            base: self.learning_rate,
            schedule: self.schedule,
            warmup: warmup * self.updates(),
            total: total * self.updates(),
            floor: self.min_lr_ratio,
        }
    }

    pub(super) fn adamw(&self) -> AdamWSettings {
        AdamWSettings {
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        }
    }
}

/// A field that is left out of the key where it has its default.
fn is_one(value: &usize) -> bool {
    *value == 1
}

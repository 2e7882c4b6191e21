//! Settings of group-relative policy optimisation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::generate::LOWEST_TEMPERATURE;
use crate::train::check;
use crate::train::config::RunConfig;
use crate::train::error::TrainError;
use crate::train::grpo::advantage::ScaleRewards;
use crate::train::grpo::loss::{LossType, Objective};
use crate::train::order::{LastBatch, Order};

/// Settings of group-relative policy optimisation (GRPO); names as in TRL, defaults as in the study's paper
/// where it states them, else as in TRL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoConfig {
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
    /// Prompts whose answers are drawn together; 0 takes all of a step at once. Several GPUs draw so many each.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation_batch: usize,
    /// Settings that all trainers have.
    #[serde(flatten)]
    pub run: RunConfig,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
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
            generation_batch: 0,
            run: RunConfig::default(),
        }
    }
}

impl GrpoConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`TrainError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), TrainError> {
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
        self.run.validate()
    }

    /// Steps of a run over `prompts` prompts.
    pub fn total_steps(&self, prompts: usize) -> usize {
        self.run.total_steps(&self.order(prompts))
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
        Order::new(
            prompts,
            self.prompts_per_step,
            LastBatch::Fill,
            self.run.seed,
        )
    }

    /// Prompts whose answers are drawn together.
    pub fn prompts_per_call(&self) -> usize {
        match self.generation_batch {
            0 => self.prompts_per_step,
            prompts => prompts.min(self.prompts_per_step),
        }
    }

    /// Forward passes of an update, and calls that draw a step's answers: what several devices share out. Of the passes it is
    /// the most; equal answers make fewer.
    pub fn pieces(&self) -> [usize; 2] {
        let answers = self.prompts_per_step * self.generations / self.steps_per_generation;
        let passes = match self.forward_batch {
            0 => 1,
            rows => answers.div_ceil(rows),
        };
        [
            passes,
            self.prompts_per_step.div_ceil(self.prompts_per_call()),
        ]
    }

    /// Updates of the weights per step.
    pub fn updates(&self) -> usize {
        self.updates_per_batch * self.steps_per_generation
    }
}

/// A field that is left out of the key where it has its default.
fn is_one(value: &usize) -> bool {
    *value == 1
}

/// The same.
fn is_zero(value: &usize) -> bool {
    *value == 0
}

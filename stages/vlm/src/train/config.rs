//! Settings that all trainers have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::train::adamw::AdamWSettings;
use crate::train::check;
use crate::train::error::TrainError;
use crate::train::order::Order;
use crate::train::schedule::{LearningRate, Schedule};
use crate::train::trainer::RunSettings;

/// Settings of a run, whatever it learns from; names and defaults as in TRL and ms-swift where they have them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunConfig {
    /// Steps of the run: updates of the weights, in `grpo` rounds of drawing answers and learning from them. Give this or
    /// `epochs`.
    #[schemars(range(min = 1))]
    pub steps: Option<usize>,
    /// Passes over the data; a part of one may be given. 1 where neither this nor `steps` is given.
    pub epochs: Option<f64>,
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
    /// Keep AdamW's moments, and what a weight of 16 bits lacks of 32, in the machine's memory, and make the updates there: a
    /// GPU holds weights and gradients alone, and each update copies them. As `offload_optimizer` of DeepSpeed. On the CPU it
    /// changes nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub offload_optimizer: bool,
    /// Steps between checkpoints; 0 keeps the last only.
    pub save_steps: usize,
    /// Seed of the order of the data and of all that is drawn: dropout, changes to images, answers.
    pub seed: u64,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: None,
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
            offload_optimizer: false,
            save_steps: 0,
            seed: 0,
        }
    }
}

impl RunConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`TrainError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), TrainError> {
        check::length(self.steps, self.epochs)?;
        check::not_negative("learning_rate", self.learning_rate)?;
        check::fraction("warmup_ratio", self.warmup_ratio)?;
        check::fraction("min_lr_ratio", self.min_lr_ratio)?;
        check::adamw(&self.adamw())
    }

    /// Steps of a run whose data come in this order.
    pub fn total_steps(&self, order: &Order) -> usize {
        let epochs = self.epochs.unwrap_or(1.0);
        self.steps.unwrap_or_else(|| order.steps(epochs))
    }

    /// What the run loop goes by, where the run has so many steps of so many updates each.
    pub fn settings(&self, steps: usize, updates: usize) -> RunSettings {
        let warmup = LearningRate::warmup_steps(self.warmup_steps, self.warmup_ratio, steps);
        RunSettings {
            steps,
            updates,
            save_steps: self.save_steps,
            rate: LearningRate {
                base: self.learning_rate,
                schedule: self.schedule,
                warmup: warmup * updates,
                total: steps * updates,
                floor: self.min_lr_ratio,
            },
            optimizer: self.adamw(),
            gradient_checkpointing: self.gradient_checkpointing,
        }
    }

    fn adamw(&self) -> AdamWSettings {
        AdamWSettings {
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            offload: self.offload_optimizer,
        }
    }
}

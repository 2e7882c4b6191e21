//! Settings of supervised fine-tuning.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::train::adamw::AdamWSettings;
use crate::train::augment::Augment;
use crate::train::check;
use crate::train::error::TrainError;
use crate::train::order::{LastBatch, Order};
use crate::train::schedule::{LearningRate, Schedule};

/// Settings of supervised fine-tuning; names and defaults as in TRL and ms-swift where they have them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Updates of the weights. Give this or `epochs`.
    #[schemars(range(min = 1))]
    pub steps: Option<usize>,
    /// Passes over the data; a part of one may be given. 1 where neither this nor `steps` is given.
    pub epochs: Option<f64>,
    /// Samples per forward pass.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Forward passes per update.
    #[schemars(range(min = 1))]
    pub gradient_accumulation: usize,
    /// What the loss of an update is the mean of: the `tokens` of all its answers; each `micro_batch`'s mean over its
    /// tokens, as where each of several GPUs takes the mean of its own; or the `samples`' means over their tokens.
    pub loss_mean: LossMean,
    /// Keep only what goes into each block and compute the block again for its gradient: less memory, about a third
    /// more time. Refused for the micro model, whose blocks are too small.
    pub gradient_checkpointing: bool,
    /// Samples at the end of an epoch that do not fill an update: `fill` it from the next epoch, take a `short`
    /// one, or `drop` them.
    pub last_batch: LastBatch,
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
    /// Seed of data order, dropout and augmentation.
    pub seed: u64,
    /// A classifier on the image tokens that is trained beside the answers and then thrown away.
    pub auxiliary: Option<AuxiliaryConfig>,
    /// Random changes to training images.
    pub augment: Augment,
}

/// What the loss of an update is the mean of. With one forward pass per update the first two are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossMean {
    /// All answer tokens of the update: a long answer counts more.
    #[default]
    Tokens,
    /// The forward passes' means over their answer tokens. As where data-parallel training averages the means of its
    /// processes: a token counts more where its pass has few.
    MicroBatch,
    /// The answers' means over their tokens: every sample counts the same.
    Samples,
}

/// Answer tokens and parts of an update, which a loss is averaged over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    /// Answer tokens of the whole update.
    pub(super) tokens: usize,
    /// Samples of the whole update.
    pub(super) samples: usize,
    /// Forward passes of the whole update.
    pub(super) micro_batches: usize,
    /// Answer tokens of the forward pass at hand.
    pub(super) micro_batch_tokens: usize,
}

impl LossMean {
    /// The weight of each token of an answer of `length` tokens; those of an update add up to 1.
    pub(super) fn weight(self, counts: Counts, length: usize) -> f64 {
        let parts = match self {
            Self::Tokens => counts.tokens,
            Self::MicroBatch => counts.micro_batches * counts.micro_batch_tokens,
            Self::Samples => counts.samples * length,
        };
        1.0 / parts as f64
    }
}

/// A linear classifier on the mean image token (it stands for a contrastively pre-trained vision tower).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuxiliaryConfig {
    /// Which label of the samples it learns.
    pub label: String,
    /// Weight of its cross-entropy in the loss.
    #[serde(default = "AuxiliaryConfig::default_weight")]
    #[schemars(range(min = 0.0))]
    pub weight: f64,
}

impl AuxiliaryConfig {
    fn default_weight() -> f64 {
        0.5
    }
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: None,
            batch_size: 16,
            gradient_accumulation: 1,
            loss_mean: LossMean::Tokens,
            gradient_checkpointing: false,
            last_batch: LastBatch::Fill,
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
            auxiliary: None,
            augment: Augment::default(),
        }
    }
}

impl SftConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`TrainError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), TrainError> {
        check::length(self.steps, self.epochs)?;
        check::positive("batch_size", self.batch_size)?;
        check::positive("gradient_accumulation", self.gradient_accumulation)?;
        check::not_negative("learning_rate", self.learning_rate)?;
        check::fraction("warmup_ratio", self.warmup_ratio)?;
        check::fraction("min_lr_ratio", self.min_lr_ratio)?;
        check::adamw(&self.adamw())?;
        match &self.auxiliary {
            Some(auxiliary) => check::not_negative("auxiliary.weight", auxiliary.weight),
            None => Ok(()),
        }
    }

    /// Samples per update.
    pub fn samples_per_step(&self) -> usize {
        self.batch_size * self.gradient_accumulation
    }

    /// Updates of a run over `samples` samples.
    pub fn total_steps(&self, samples: usize) -> usize {
        self.steps
            .unwrap_or_else(|| self.order(samples).steps(self.epochs.unwrap_or(1.0)))
    }

    pub(super) fn order(&self, samples: usize) -> Order {
        Order::new(samples, self.samples_per_step(), self.last_batch, self.seed)
    }

    pub(super) fn rate(&self, total: usize) -> LearningRate {
        LearningRate {
            base: self.learning_rate,
            schedule: self.schedule,
            warmup: LearningRate::warmup_steps(self.warmup_steps, self.warmup_ratio, total),
            total,
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

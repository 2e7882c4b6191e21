//! Settings of supervised fine-tuning.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::train::augment::Augment;
use crate::train::check;
use crate::train::config::RunConfig;
use crate::train::error::TrainError;
use crate::train::order::{LastBatch, Order};

/// Settings of supervised fine-tuning; names and defaults as in TRL and ms-swift where they have them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Samples per forward pass.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Forward passes per update.
    #[schemars(range(min = 1))]
    pub gradient_accumulation: usize,
    /// What the loss of an update is the mean of: the `tokens` of all its answers; each `micro_batch`'s mean over its
    /// tokens, as where each of several GPUs takes the mean of its own; or the `samples`' means over their tokens.
    pub loss_mean: LossMean,
    /// Samples at the end of an epoch that do not fill an update: `fill` it from the next epoch, take a `short`
    /// one, or `drop` them.
    pub last_batch: LastBatch,
    /// A classifier on the image tokens that is trained beside the answers and then thrown away.
    pub auxiliary: Option<AuxiliaryConfig>,
    /// Random changes to training images.
    pub augment: Augment,
    /// Settings that all trainers have.
    #[serde(flatten)]
    pub run: RunConfig,
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
            batch_size: 16,
            gradient_accumulation: 1,
            loss_mean: LossMean::Tokens,
            last_batch: LastBatch::Fill,
            auxiliary: None,
            augment: Augment::default(),
            run: RunConfig::default(),
        }
    }
}

impl SftConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`TrainError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), TrainError> {
        check::positive("batch_size", self.batch_size)?;
        check::positive("gradient_accumulation", self.gradient_accumulation)?;
        self.run.validate()?;
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
        self.run.total_steps(&self.order(samples))
    }

    pub(super) fn order(&self, samples: usize) -> Order {
        Order::new(
            samples,
            self.samples_per_step(),
            self.last_batch,
            self.run.seed,
        )
    }
}

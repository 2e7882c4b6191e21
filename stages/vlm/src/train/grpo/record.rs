//! What a GRPO run logs, the implicit filter included.
//!
//! A group whose answers are all right or all wrong has zero advantage and teaches nothing: GRPO filters data by
//! itself. Two measures show from which difficulty bin the gradient comes:
//!
//! - `gradient`, the headline: the sum over answers of the L2 norm of d(loss)/d(logits), KL term
//!   included: how hard each answer pulls at the model. `mixed_gradient` is the part of it that comes from groups
//!   with a non-zero advantage; the rest is the KL term's alone.
//! - `advantage`: the sum over tokens of `|d loss / d log p|` of the reward term alone, which is exactly zero
//!   for groups of equal rewards.

use serde::{Deserialize, Serialize};

use crate::train::trainer::recent_mean;

/// What one step did: one line of the log. Means are over the step's answers unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GrpoRecord {
    /// The step, counted from 1.
    pub step: usize,
    /// Passes over the prompts so far.
    pub epoch: f64,
    /// Learning rate of the step's last update.
    pub learning_rate: f64,
    /// Loss, mean over the step's updates.
    pub loss: f64,
    /// Norm of the gradient before clipping, mean over the step's updates.
    pub grad_norm: f64,
    /// Mean reward of the answers that could be scored.
    pub reward: f64,
    /// Sample standard deviation of the rewards within a group, mean over groups.
    pub reward_std: f64,
    /// Groups, one per prompt.
    pub groups: usize,
    /// Groups of equal rewards above 0: zero advantage.
    pub all_right: usize,
    /// Groups of equal rewards not above 0: zero advantage.
    pub all_wrong: usize,
    /// Answers drawn.
    pub answers: usize,
    /// Different (prompt, answer) pairs that were trained on.
    pub distinct_answers: usize,
    /// Mean over tokens of the KL estimate to the reference; none without a reference.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kl: Option<f64>,
    /// Part of the tokens clipped at the lower bound.
    pub clip_low: f64,
    /// Part of the tokens clipped at the upper bound.
    pub clip_high: f64,
    /// Mean over the tokens trained on of the entropy of `softmax(logits / temperature)`, in nats.
    pub entropy: f64,
    /// Mean number of tokens.
    pub completion_length: f64,
    /// Part of the answers that `max_new_tokens` cut off.
    pub truncated: f64,
    /// What came from each difficulty bin.
    pub bins: Vec<BinGradient>,
}

/// What one difficulty bin gave to a step, or to a whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BinGradient {
    /// Groups drawn from the bin.
    pub groups: usize,
    /// Groups among them with a non-zero advantage.
    pub mixed: usize,
    /// Sum over answers of the norm of the loss's gradient in the logits.
    pub gradient: f64,
    /// The part of `gradient` that comes from groups with a non-zero advantage.
    pub mixed_gradient: f64,
    /// Sum over tokens of the reward term's gradient in the log-probability, without sign.
    pub advantage: f64,
}

/// A bin's part in a whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BinShare {
    /// The sums over the run.
    #[serde(flatten)]
    pub total: BinGradient,
    /// The bin's part of all groups.
    pub group_share: f64,
    /// The bin's part of the gradient (see [`BinGradient::gradient`]).
    pub gradient_share: f64,
    /// The bin's part of the reward term's gradient (see [`BinGradient::advantage`]).
    pub advantage_share: f64,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrpoSummary {
    /// Mean reward over the last tenth of the steps.
    pub reward: f64,
    /// Part of all groups with zero advantage.
    pub zero_advantage: f64,
    /// Part of the gradient that comes from the other groups (see [`BinGradient::mixed_gradient`]).
    pub mixed_gradient_share: f64,
    /// The implicit filter: what each difficulty bin gave to the run.
    pub bins: Vec<BinShare>,
}

impl GrpoSummary {
    /// The summary of a log.
    pub(crate) fn of(log: &[GrpoRecord], bins: usize) -> Self {
        let mut sums = vec![BinGradient::default(); bins];
        for (sum, bin) in log.iter().flat_map(|record| record.bins.iter().enumerate()) {
            sums[sum].add(bin);
        }
        let groups: usize = sums.iter().map(|bin| bin.groups).sum();
        let gradient: f64 = sums.iter().map(|bin| bin.gradient).sum();
        let mixed_gradient: f64 = sums.iter().map(|bin| bin.mixed_gradient).sum();
        let advantage: f64 = sums.iter().map(|bin| bin.advantage).sum();
        let mixed: usize = sums.iter().map(|bin| bin.mixed).sum();
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Self {
            reward: recent_mean(log, |record| record.reward),
            zero_advantage: share((groups - mixed) as f64, groups as f64),
            mixed_gradient_share: share(mixed_gradient, gradient),
            bins: sums
                .into_iter()
                .map(|bin| BinShare {
                    group_share: share(bin.groups as f64, groups as f64),
                    gradient_share: share(bin.gradient, gradient),
                    advantage_share: share(bin.advantage, advantage),
                    total: bin,
                })
                .collect(),
        }
    }
}

impl BinGradient {
    fn add(&mut self, other: &Self) {
        self.groups += other.groups;
        self.mixed += other.mixed;
        self.gradient += other.gradient;
        self.mixed_gradient += other.mixed_gradient;
        self.advantage += other.advantage;
    }
}

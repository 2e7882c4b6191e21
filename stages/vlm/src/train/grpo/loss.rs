//! The GRPO objective on per-token log-probabilities, as differentiable tensor functions.
//!
//! With `r = exp(log p - log p_old)`, the advantage `A` of the token's answer and `d = log p_ref - log p`:
//!
//! ```text
//! token loss = -min(r A, clamp(r, 1 - eps, 1 + eps_high) A) + beta k3,    k3 = exp(d) - d - 1
//! ```
//!
//! The loss of a step is a weighted sum of token losses; the loss types differ only in the weights
//! ([`answer_weights`]). Formulas as in TRL 1.16's `GRPOTrainer._compute_loss`. All tensors are `[tokens]`,
//! answer after answer without padding.

use burn::tensor::Tensor;
use dcsft_tensor::ops::exp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How token losses are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over each answer's tokens, then over answers (DeepSeekMath).
    #[default]
    Grpo,
    /// Mean over all tokens of the batch that [`answer_weights`] is given: the same as `dapo` unless a step is
    /// cut into batches that are averaged one by one.
    Bnpo,
    /// Sum over tokens, divided by answers times `max_new_tokens` (Dr. GRPO: no length bias).
    DrGrpo,
    /// Sum over tokens, divided by all tokens of the step.
    Dapo,
}

/// Constants of the objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Lower clip range of the ratio.
    pub epsilon: f64,
    /// Upper clip range of the ratio.
    pub epsilon_high: f64,
    /// Weight of the KL term.
    pub beta: f64,
    /// Multiplies the KL term by the ratio (TRL's `use_bias_correction_kl`).
    pub kl_bias_correction: bool,
}

/// Per-token results, each `[tokens]`.
pub struct TokenLoss {
    /// The objective to be minimised.
    pub loss: Tensor<1>,
    /// Probability ratio of the policy to the policy that drew the tokens.
    pub ratio: Tensor<1>,
    /// KL estimate to the reference; none where there is no reference.
    pub kl: Option<Tensor<1>>,
}

/// The per-token objective.
///
/// `old` are the log-probabilities under the policy that drew the tokens; `None` means that this is the policy
/// itself, so that the ratio is 1 and still differentiable. `reference` is used where `beta` is not 0.
pub fn token_loss(
    objective: &Objective,
    logprobs: &Tensor<1>,
    old: Option<&Tensor<1>>,
    reference: Option<&Tensor<1>>,
    advantages: &Tensor<1>,
) -> TokenLoss {
    let old = old.cloned().unwrap_or_else(|| logprobs.clone().detach());
    let ratio = exp(logprobs.clone() - old);
    let clipped = ratio
        .clone()
        .clamp(1.0 - objective.epsilon, 1.0 + objective.epsilon_high);
    let gain = (ratio.clone() * advantages.clone()).min_pair(clipped * advantages.clone());
    let kl = reference.map(|reference| {
        let kl = kl_k3(logprobs, reference);
        if objective.kl_bias_correction {
            kl * ratio.clone()
        } else {
            kl
        }
    });
    let loss = match &kl {
        Some(kl) if objective.beta != 0.0 => kl.clone().mul_scalar(objective.beta) - gain,
        _ => -gain,
    };
    TokenLoss { loss, ratio, kl }
}

/// Schulman's k3 estimate of KL(policy || reference) per token: `exp(d) - d - 1`, `d = log p_ref - log p`.
pub fn kl_k3(logprobs: &Tensor<1>, reference: &Tensor<1>) -> Tensor<1> {
    let difference = reference.clone() - logprobs.clone();
    exp(difference.clone()) - difference - 1.0
}

/// What one token adds to the gradient of its loss in `log p`, without the KL term: `-r A`, or 0 where the
/// clipped side of the objective is the smaller one.
pub fn policy_gradient(objective: &Objective, ratio: f32, advantage: f32) -> f32 {
    if Clip::of(objective, ratio, advantage).is_some() {
        0.0
    } else {
        -ratio * advantage
    }
}

/// The bound at which a token's ratio is clipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clip {
    /// `1 - epsilon`: the advantage is negative and the policy already avoids the token.
    Low,
    /// `1 + epsilon_high`: the advantage is positive and the policy already prefers the token.
    High,
}

impl Clip {
    /// Whether, and where, a token is clipped.
    pub fn of(objective: &Objective, ratio: f32, advantage: f32) -> Option<Self> {
        if advantage < 0.0 && ratio < (1.0 - objective.epsilon) as f32 {
            Some(Self::Low)
        } else if advantage > 0.0 && ratio > (1.0 + objective.epsilon_high) as f32 {
            Some(Self::High)
        } else {
            None
        }
    }
}

/// The weight that each token of an answer has in the loss, one per answer of these lengths; the loss is the sum
/// of weighted token losses.
///
/// `tokens_of_step` is what [`LossType::Dapo`] divides by: the tokens of the whole step, also where `lengths`
/// are only a part of it.
pub fn answer_weights(
    loss_type: LossType,
    lengths: &[usize],
    max_new_tokens: usize,
    tokens_of_step: usize,
) -> Vec<f64> {
    let answers = lengths.len() as f64;
    let tokens: usize = lengths.iter().sum();
    let weight = |length: &usize| match loss_type {
        LossType::Grpo => 1.0 / (answers * (*length).max(1) as f64),
        LossType::Bnpo => 1.0 / tokens.max(1) as f64,
        LossType::DrGrpo => 1.0 / (answers * max_new_tokens as f64),
        LossType::Dapo => 1.0 / tokens_of_step.max(1) as f64,
    };
    lengths.iter().map(weight).collect()
}

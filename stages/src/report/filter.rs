//! The implicit filter: which difficulty bin GRPO's gradient came from, over the run and step by step.

use dcsft_engine::stage::{Input, StageError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::source::Source;
use crate::data::{read_json, read_lines};

/// The implicit filter of one GRPO run. Shares are fractions, in the order of `bins`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImplicitFilter {
    /// Whose log it is.
    pub source: Source,
    /// Names of the bins.
    pub bins: Vec<String>,
    /// Each bin's part of the groups seen.
    pub groups: Vec<f64>,
    /// Each bin's part of the gradient in the logits.
    pub gradient: Vec<f64>,
    /// Each bin's part of the reward term's gradient, which leaves the KL term out.
    pub advantage: Vec<f64>,
    /// The part of the gradient that comes from groups with a non-zero advantage: samples that were neither always
    /// right nor always wrong when their answers were drawn.
    pub mixed: f64,
    /// The same for each step.
    pub steps: Vec<FilterStep>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterStep {
    /// The step, counted from 1.
    pub step: u64,
    /// Mean reward.
    pub reward: f64,
    /// Each bin's part of the gradient in the logits; all zero where there is none.
    pub gradient: Vec<f64>,
    /// Each bin's part of the reward term's gradient; all zero where no group had an advantage.
    pub advantage: Vec<f64>,
    /// Part of the groups with a non-zero advantage.
    pub active: f64,
}

#[derive(Deserialize)]
struct Share {
    bin: String,
    gradient: f64,
    mixed_gradient: f64,
    group_share: f64,
    gradient_share: f64,
    advantage_share: f64,
}

#[derive(Deserialize)]
struct Step {
    step: u64,
    reward: f64,
    groups: u64,
    all_right: u64,
    all_wrong: u64,
    bins: Map<String, Value>,
}

/// The filters of those training logs that are of GRPO.
pub(super) fn read(logs: &[Input]) -> Result<Vec<ImplicitFilter>, StageError> {
    let of_grpo = logs
        .iter()
        .filter(|input| input.dir.join("implicit_filter.json").exists());
    of_grpo.map(one).collect()
}

fn one(input: &Input) -> Result<ImplicitFilter, StageError> {
    let shares: Vec<Share> = read_json(&input.dir.join("implicit_filter.json"))?;
    let steps: Vec<Step> = read_lines(&input.dir.join("grpo.jsonl"))?;
    let bins: Vec<String> = shares.iter().map(|share| share.bin.clone()).collect();
    let steps = steps.iter().map(|step| FilterStep {
        step: step.step,
        reward: step.reward,
        gradient: parts(step, &bins, "gradient"),
        advantage: parts(step, &bins, "advantage"),
        active: (step.groups - step.all_right - step.all_wrong) as f64 / step.groups.max(1) as f64,
    });
    let sum = |value: fn(&Share) -> f64| shares.iter().map(value).sum::<f64>();
    let gradient = sum(|share| share.gradient);
    Ok(ImplicitFilter {
        mixed: if gradient > 0.0 {
            sum(|share| share.mixed_gradient) / gradient
        } else {
            0.0
        },
        source: Source::from(&input.label),
        groups: shares.iter().map(|share| share.group_share).collect(),
        gradient: shares.iter().map(|share| share.gradient_share).collect(),
        advantage: shares.iter().map(|share| share.advantage_share).collect(),
        steps: steps.collect(),
        bins,
    })
}

fn parts(step: &Step, bins: &[String], field: &str) -> Vec<f64> {
    let value = |bin: &String| {
        step.bins
            .get(bin)
            .and_then(|bin| bin[field].as_f64())
            .unwrap_or(0.0)
    };
    let values: Vec<f64> = bins.iter().map(value).collect();
    let sum: f64 = values.iter().sum();
    values
        .into_iter()
        .map(|value| if sum > 0.0 { value / sum } else { 0.0 })
        .collect()
}

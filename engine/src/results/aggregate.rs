//! Aggregation over repeats: mean and standard error per arm, paired differences between arms.
//!
//! Repeats are the values of one axis, as a rule `seed`. A difference between two arms is taken seed by seed, since
//! arms that share a seed share their data order and their starting weights.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ResultRow;
use super::statistics::{Gap, mean_and_error};

/// What a group of rows has in common: everything but the repeat and the value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Group {
    /// The arm.
    pub arm: String,
    /// The axes of evaluation and model, without the one that is aggregated over.
    pub axes: BTreeMap<String, Value>,
    /// The training step; none for a final model.
    pub step: Option<u64>,
    /// The set.
    pub set: String,
    /// `id` or `ood`.
    pub split: String,
    /// What was measured.
    pub metric: String,
    /// The stage that evaluated.
    pub stage: String,
    /// The stage whose model was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Where the set comes from, without the axis that is aggregated over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// The repeats of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// What they have in common.
    #[serde(flatten)]
    pub group: Group,
    /// The number of repeats.
    pub repeats: usize,
    /// Their mean.
    pub mean: f64,
    /// The standard error of the mean (sample standard deviation over the root of the number); none for one repeat.
    pub standard_error: Option<f64>,
    /// (value of the axis, value), in the order of the rows.
    pub values: Vec<(Value, f64)>,
}

/// An arm against a baseline arm, repeat by repeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The arm's group.
    #[serde(flatten)]
    pub group: Group,
    /// The baseline's group.
    pub baseline: Group,
    /// Repeats that both arms have.
    pub pairs: usize,
    /// The mean of arm minus baseline.
    pub mean_difference: f64,
    /// The standard error of that mean; none for one pair.
    pub standard_error: Option<f64>,
    /// Pairs in which the arm is above the baseline.
    pub wins: usize,
    /// Pairs in which they are equal.
    pub ties: usize,
}

/// Groups rows over the axis `over`, groups in the order of their first rows.
pub fn aggregate(rows: &[ResultRow], over: &str) -> Vec<Aggregate> {
    let mut index: HashMap<Group, usize> = HashMap::new();
    let mut groups: Vec<(Group, Vec<(Value, f64)>)> = Vec::new();
    for row in rows {
        let (group, repeat) = group_of(row, over);
        let at = *index.entry(group.clone()).or_insert(groups.len());
        if at == groups.len() {
            groups.push((group, Vec::new()));
        }
        groups[at].1.push((repeat, row.value));
    }
    let aggregates = groups.into_iter().map(|(group, values)| {
        let numbers: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
        let (mean, standard_error) = mean_and_error(&numbers);
        Aggregate {
            group,
            repeats: values.len(),
            mean,
            standard_error,
            values,
        }
    });
    aggregates.collect()
}

/// What a row has in common with its repeats, and which repeat it is (null without the axis).
fn group_of(row: &ResultRow, over: &str) -> (Group, Value) {
    let mut axes: BTreeMap<String, Value> = row
        .all_axes()
        .into_iter()
        .map(|(axis, value)| (axis.to_owned(), value.clone()))
        .collect();
    let repeat = axes.remove(over).unwrap_or(Value::Null);
    let data = row.data.clone().map(|mut data| {
        data.axes.remove(over);
        data.to_string()
    });
    let group = Group {
        arm: row.arm.clone(),
        axes,
        step: row.step,
        set: row.set.clone(),
        split: row.split.clone(),
        metric: row.metric.clone(),
        stage: row.stage.clone(),
        model: row.model.as_ref().map(|model| model.stage.clone()),
        data,
    };
    (group, repeat)
}

/// Every other arm against `baseline`, where set (its name and where it comes from), split and metric agree, and so does
/// every axis that both have.
///
/// Steps agree if they are equal; a baseline that was evaluated only once it was finished stands against every step.
pub fn paired(aggregates: &[Aggregate], baseline: &str) -> Vec<Paired> {
    let baselines: Vec<&Aggregate> = aggregates
        .iter()
        .filter(|one| one.group.arm == baseline)
        .collect();
    let final_only = baselines.iter().all(|one| one.group.step.is_none());
    let mut pairs = Vec::new();
    for arm in aggregates.iter().filter(|one| one.group.arm != baseline) {
        let fits = |base: &&&Aggregate| comparable(&arm.group, &base.group, final_only);
        pairs.extend(
            baselines
                .iter()
                .filter(fits)
                .filter_map(|base| pair(arm, base)),
        );
    }
    pairs
}

fn comparable(arm: &Group, base: &Group, final_only: bool) -> bool {
    let axes = arm
        .axes
        .iter()
        .all(|(axis, value)| base.axes.get(axis).is_none_or(|other| other == value));
    let steps = arm.step == base.step || final_only;
    let data = arm.data == base.data || arm.data.is_none() || base.data.is_none();
    let named = arm.set == base.set && arm.split == base.split && arm.metric == base.metric;
    axes && steps && data && named
}

fn pair(arm: &Aggregate, base: &Aggregate) -> Option<Paired> {
    let differences: Vec<f64> = arm
        .values
        .iter()
        .filter_map(|(repeat, value)| {
            // A baseline that the axis does not touch is the same one in every repeat.
            let (_, other) = base
                .values
                .iter()
                .find(|(other, _)| other == repeat || other.is_null())?;
            Some(value - other)
        })
        .collect();
    let gap = Gap::of(&differences)?;
    Some(Paired {
        group: arm.group.clone(),
        baseline: base.group.clone(),
        pairs: gap.pairs,
        mean_difference: gap.mean,
        standard_error: gap.se,
        wins: gap.wins,
        ties: differences.iter().filter(|one| **one == 0.0).count(),
    })
}

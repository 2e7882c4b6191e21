//! What the stage says of its bins.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::assign::Scored;
use super::params::DifficultyParams;
use crate::data::Dataset;

/// What the stage says of its scores and sets.
pub(super) fn summarise(
    params: &DifficultyParams,
    data: &Dataset,
    samples: &[Scored],
    bins: &[Option<usize>],
    sets: &[(String, Vec<usize>)],
) -> Value {
    let mut histogram: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (c, n) in samples.iter().filter_map(|sample| sample.count) {
        histogram
            .entry(n)
            .or_insert_with(|| vec![0; n as usize + 1])[c as usize] += 1;
    }
    let sizes: serde_json::Map<String, Value> = sets
        .iter()
        .map(|(name, rows)| (name.clone(), rows.len().into()))
        .collect();
    let described: Vec<Value> = params
        .bin_names()
        .iter()
        .enumerate()
        .map(|(bin, name)| {
            let count = bins.iter().filter(|found| **found == Some(bin)).count();
            let interval = params
                .quantiles
                .is_none()
                .then(|| params.bins.0[bin].interval.text());
            json!({"name": name, "interval": interval, "count": count, "keep": params.keep(bin)})
        })
        .collect();
    json!({
        "set": data.info().set,
        "samples": data.len(),
        "scored": samples.len(),
        "unscored": data.len() - samples.len(),
        "uncovered": bins.iter().filter(|bin| bin.is_none()).count(),
        "bins": described,
        // By number of answers: how many samples have 0, 1, ... right.
        "histogram": histogram.into_iter().map(|(n, counts)| (n.to_string(), counts.into())).collect::<serde_json::Map<_, Value>>(),
        "sets": sizes,
    })
}

/// Sets that nothing can be trained on: those that hold no sample, and whether they ever could.
pub(super) fn warnings(
    params: &DifficultyParams,
    samples: &[Scored],
    sets: &[(String, Vec<usize>)],
) -> Vec<String> {
    let tries: BTreeSet<u64> = samples
        .iter()
        .filter_map(|sample| Some(sample.count?.1))
        .collect();
    let unreachable = |name: &str| {
        let bin = params.bins.0.iter().find(|bin| bin.name == name)?;
        let reached = |n: &u64| (0..=*n).any(|c| bin.interval.contains(c, *n));
        let by_count = params.quantiles.is_none() && !tries.is_empty();
        (by_count && !tries.iter().any(reached)).then(|| {
            let tries: Vec<String> = tries.iter().map(u64::to_string).collect();
            format!(
                ": of {} answers no number of right ones is in {}",
                tries.join(" or "),
                bin.interval.text()
            )
        })
    };
    sets.iter()
        .filter(|(name, rows)| rows.is_empty() && !name.starts_with("random-"))
        .map(|(name, _)| {
            let why = unreachable(name).unwrap_or_default();
            format!("the set `{name}` is empty{why}; nothing can be trained on it")
        })
        .collect()
}

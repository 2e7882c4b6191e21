//! Result rows by arm and step, over seeds and sets: what tables and figures are made of.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dcsft_engine::results::ResultRow;
use dcsft_engine::results::aggregate::mean_and_error;
use dcsft_engine::study::plain;
use serde_json::Value;

use crate::report::data::{Estimate, Spread};

/// The axis over which means are taken.
pub(crate) const SEED: &str = "seed";
/// Axes that have a column of their own.
const OWN_COLUMN: [&str; 3] = [SEED, "set", "step"];

/// A measured value with its 95% interval, as one evaluation gave it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    /// The value, a fraction.
    pub(crate) value: f64,
    /// The interval.
    pub(crate) interval: [f64; 2],
}

/// All evaluations of one arm at one step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    /// The arm, with the values of axes in which its rows differ: `sft/easy+medium lr=0.001`.
    pub(crate) arm: String,
    /// The arm alone.
    pub(crate) plain_arm: String,
    /// The training step.
    pub(crate) step: Option<u64>,
    /// By seed (`""` where there is no such axis), then by set: accuracy.
    pub(crate) seeds: BTreeMap<String, BTreeMap<String, Measured>>,
}

/// The evaluation sets, in-distribution ones first: (name, is out of distribution).
pub(crate) fn sets(rows: &[ResultRow]) -> Vec<(String, bool)> {
    let mut sets: Vec<(String, bool)> = Vec::new();
    for row in rows {
        if !sets.iter().any(|(set, _)| *set == row.set) {
            sets.push((row.set.clone(), row.split == "ood"));
        }
    }
    sets.sort_by_key(|(_, ood)| *ood);
    sets
}

/// Groups the rows of `metric`; groups stand in the order in which their first rows do, steps ascending.
pub(crate) fn group(rows: &[ResultRow], metric: &str) -> Vec<Group> {
    let varying = varying_axes(rows);
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<(String, Option<u64>), usize> = HashMap::new();
    let mut order: HashMap<String, usize> = HashMap::new();
    for row in rows.iter().filter(|row| row.metric == metric) {
        let label = label(row, varying.get(row.arm.as_str()));
        let index = *known.entry((label, row.step)).or_insert_with_key(|key| {
            let (arm, step) = key.clone();
            let next = order.len();
            order.entry(arm.clone()).or_insert(next);
            groups.push(Group {
                arm,
                plain_arm: row.arm.clone(),
                step,
                seeds: BTreeMap::new(),
            });
            groups.len() - 1
        });
        let seed = row.axes.get(SEED).map(plain).unwrap_or_default();
        let measured = Measured {
            value: row.value,
            interval: row.ci.unwrap_or([row.value; 2]),
        };
        groups[index]
            .seeds
            .entry(seed)
            .or_default()
            .insert(row.set.clone(), measured);
    }
    groups.sort_by_key(|group| (order[&group.arm], group.step));
    groups
}

/// The values that an axis has among the rows of an arm.
#[derive(Default)]
struct Values {
    distinct: BTreeSet<String>,
    /// Some row's step and set do not tell its value.
    untold: bool,
}

/// Axes whose values differ among the rows of an arm, other than those with a column of their own and those that
/// merely pick the step or the set, whatever they are called.
fn varying_axes(rows: &[ResultRow]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut values: BTreeMap<(&str, &str), Values> = BTreeMap::new();
    for row in rows {
        let step = row.step.map(|step| step.to_string());
        for (axis, value) in row
            .axes
            .iter()
            .filter(|(axis, _)| !OWN_COLUMN.contains(&axis.as_str()))
        {
            let value = plain(value);
            let number = value.strip_prefix("step-").unwrap_or(&value);
            let told = value == row.set || step.as_deref() == Some(number);
            let values = values.entry((&row.arm, axis)).or_default();
            values.untold |= !told;
            values.distinct.insert(value);
        }
    }
    let mut varying: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for ((arm, axis), values) in values {
        if values.untold && values.distinct.len() > 1 {
            varying.entry(arm).or_default().insert(axis);
        }
    }
    varying
}

fn label(row: &ResultRow, varying: Option<&BTreeSet<&str>>) -> String {
    let value = |axis: &&str| -> Option<String> {
        let value: &Value = row.axes.get(*axis)?;
        Some(format!("{axis}={}", plain(value)))
    };
    let parts: Vec<String> = varying.into_iter().flatten().filter_map(value).collect();
    if parts.is_empty() {
        row.arm.clone()
    } else {
        format!("{} {}", row.arm, parts.join(" "))
    }
}

/// The groups at each arm's last step.
pub(crate) fn last_steps(groups: &[Group]) -> Vec<&Group> {
    let mut last: Vec<&Group> = Vec::new();
    for group in groups {
        match last.iter_mut().find(|other| other.arm == group.arm) {
            Some(other) if other.step <= group.step => *other = group,
            Some(_) => {}
            None => last.push(group),
        }
    }
    last
}

/// How intervals are to be read: standard errors as soon as some arm has two seeds.
pub(crate) fn spread(groups: &[Group]) -> Spread {
    match groups.iter().map(|group| group.seeds.len()).max() {
        Some(seeds @ 2..) => Spread::StandardError { seeds },
        _ => Spread::Wilson95,
    }
}

impl Group {
    /// The mean over `sets` for each seed that has them all.
    pub(crate) fn by_seed(&self, sets: &[&str]) -> BTreeMap<&str, Measured> {
        let mean = |cells: &BTreeMap<String, Measured>| -> Option<Measured> {
            let found: Vec<Measured> = sets
                .iter()
                .map(|set| cells.get(*set).copied())
                .collect::<Option<_>>()?;
            mean_of_sets(&found)
        };
        self.seeds
            .iter()
            .filter_map(|(seed, cells)| Some((seed.as_str(), mean(cells)?)))
            .collect()
    }

    /// The accuracy on the mean of `sets`: over seeds, mean and standard error; of one seed, the 95% interval.
    pub(crate) fn estimate(&self, sets: &[&str]) -> Option<Estimate> {
        let by_seed: Vec<Measured> = self.by_seed(sets).into_values().collect();
        if let [only] = by_seed.as_slice() {
            return Some(Estimate {
                value: only.value,
                low: only.interval[0],
                high: only.interval[1],
            });
        }
        if by_seed.is_empty() {
            return None;
        }
        let values: Vec<f64> = by_seed.iter().map(|measured| measured.value).collect();
        let (mean, se) = mean_and_error(&values);
        let se = se.unwrap_or(0.0);
        Some(Estimate {
            value: mean,
            low: mean - se,
            high: mean + se,
        })
    }
}

/// The mean over independent sets. Half widths of intervals add as standard deviations do: root of the sum of
/// squares, divided by the number of sets.
fn mean_of_sets(found: &[Measured]) -> Option<Measured> {
    if let [only] = found {
        return Some(*only);
    }
    let n = found.len() as f64;
    if found.is_empty() {
        return None;
    }
    let value = found.iter().map(|one| one.value).sum::<f64>() / n;
    let squares: f64 = found
        .iter()
        .map(|one| ((one.interval[1] - one.interval[0]) / 2.0).powi(2))
        .sum();
    let half = squares.sqrt() / n;
    Some(Measured {
        value,
        interval: [value - half, value + half],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(arm: &str, axes: Value, step: Option<u64>, set: &str, value: f64) -> ResultRow {
        let Value::Object(axes) = axes else {
            panic!("axes are an object")
        };
        ResultRow {
            arm: arm.to_owned(),
            axes: axes.into_iter().collect(),
            step,
            set: set.to_owned(),
            split: if set == "val" { "id" } else { "ood" }.to_owned(),
            metric: "accuracy".to_owned(),
            value,
            n: Some(100),
            ci: Some([value - 0.1, value + 0.1]),
        }
    }

    #[test]
    fn an_axis_that_varies_within_an_arm_is_shown_beside_it() {
        let rows = [
            row(
                "sft/easy",
                json!({"subset": "easy", "lr": 0.1, "seed": 0}),
                None,
                "val",
                0.5,
            ),
            row(
                "sft/easy",
                json!({"subset": "easy", "lr": 0.2, "seed": 0}),
                None,
                "val",
                0.6,
            ),
            row("grpo", json!({"lr": 0.1, "seed": 0}), None, "val", 0.7),
        ];
        let groups = group(&rows, "accuracy");
        let arms: Vec<&str> = groups.iter().map(|group| group.arm.as_str()).collect();
        assert_eq!(arms, ["sft/easy lr=0.1", "sft/easy lr=0.2", "grpo"]);
    }

    #[test]
    fn an_axis_that_picks_the_step_or_the_set_is_not_shown_whatever_its_name() {
        let rows = [(100, "val"), (100, "rendition"), (300, "val")].map(|(step, set)| {
            let axes = json!({"on": set, "checkpoint": format!("step-{step}")});
            row("sft/all", axes, Some(step), set, 0.5)
        });
        let groups = group(&rows, "accuracy");
        let shown: Vec<(&str, Option<u64>)> = groups
            .iter()
            .map(|group| (group.arm.as_str(), group.step))
            .collect();
        assert_eq!(shown, [("sft/all", Some(100)), ("sft/all", Some(300))]);
    }

    #[test]
    fn seeds_become_a_mean_with_its_standard_error() {
        let rows = [0.5, 0.7].map(|value| row("a", json!({"seed": value}), None, "val", value));
        let groups = group(&rows, "accuracy");
        let estimate = groups[0].estimate(&["val"]).unwrap();
        // Sample standard deviation 0.1414, over the root of 2.
        assert!(
            (estimate.value - 0.6).abs() < 1e-12 && (estimate.half_width() - 0.1).abs() < 1e-12,
            "{estimate:?}"
        );
        assert_eq!(spread(&groups), Spread::StandardError { seeds: 2 });
    }

    #[test]
    fn the_mean_over_two_sets_of_one_seed_has_the_narrower_interval() {
        let rows = ["ood_a", "ood_b"].map(|set| row("a", json!({}), None, set, 0.4));
        let groups = group(&rows, "accuracy");
        let estimate = groups[0].estimate(&["ood_a", "ood_b"]).unwrap();
        assert!(
            (estimate.half_width() - 0.1 / 2f64.sqrt()).abs() < 1e-12,
            "{estimate:?}"
        );
        assert_eq!(spread(&groups), Spread::Wilson95);
    }

    #[test]
    fn a_seed_that_misses_a_set_does_not_enter_the_mean_over_sets() {
        let rows = [
            row("a", json!({"seed": 0}), None, "ood_a", 0.4),
            row("a", json!({"seed": 0}), None, "ood_b", 0.6),
            row("a", json!({"seed": 1}), None, "ood_a", 0.9),
        ];
        let groups = group(&rows, "accuracy");
        assert_eq!(groups[0].estimate(&["ood_a", "ood_b"]).unwrap().value, 0.5);
    }

    #[test]
    fn the_last_step_of_each_arm_is_kept() {
        let rows = [
            row("a", json!({}), Some(200), "val", 0.2),
            row("a", json!({}), Some(100), "val", 0.1),
            row("base", json!({}), None, "val", 0.3),
        ];
        let groups = group(&rows, "accuracy");
        let steps: Vec<Option<u64>> = groups.iter().map(|group| group.step).collect();
        assert_eq!(steps, [Some(100), Some(200), None]);
        let last: Vec<Option<u64>> = last_steps(&groups).iter().map(|group| group.step).collect();
        assert_eq!(last, [Some(200), None]);
    }
}

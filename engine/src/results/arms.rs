//! Result rows by arm and step, over repeats and sets: what tables and figures are made of.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::ResultRow;
use super::places::Place;
use super::statistics::{Estimate, Spread, mean_and_error};

/// The axis over which means are taken.
pub const SEED: &str = "seed";

/// A measured value with its 95% interval, as one evaluation gave it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The value, a fraction.
    pub value: f64,
    /// The interval.
    pub interval: [f64; 2],
    /// Index of its row; of a mean over sets, of the first.
    pub row: usize,
}

/// All evaluations of one arm at one step.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The arm, with what tells its lines apart: `sft/easy+medium lr=0.001`.
    pub arm: String,
    /// The arm alone.
    pub plain_arm: String,
    /// What tells its lines apart, as (name, value).
    pub told: Vec<(String, String)>,
    /// The training step.
    pub step: Option<u64>,
    /// By seed (`""` where there is no such axis), then by set: accuracy.
    pub seeds: BTreeMap<String, BTreeMap<String, Measured>>,
}

/// The evaluation sets, in-distribution ones first: (name, is out of distribution).
pub fn sets(places: &[Place]) -> Vec<(String, bool)> {
    let mut known = BTreeSet::new();
    let mut sets: Vec<(String, bool)> = Vec::new();
    for place in places {
        if known.insert((&place.set, place.ood)) {
            sets.push((place.set.clone(), place.ood));
        }
    }
    sets.sort_by_key(|(_, ood)| *ood);
    sets
}

/// Groups the rows of `metric`, which stand at `places`; groups stand in the order in which their first rows do, steps
/// ascending.
pub fn group(rows: &[ResultRow], places: &[Place], metric: &str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<(&str, Option<u64>), usize> = HashMap::new();
    let mut order: HashMap<&str, usize> = HashMap::new();
    let chosen = rows.iter().zip(places).enumerate();
    for (index, (row, place)) in chosen.filter(|(_, (row, _))| row.metric == metric) {
        let at = *known.entry((&place.arm, place.step)).or_insert_with(|| {
            let next = order.len();
            order.entry(&place.arm).or_insert(next);
            groups.push(Group {
                arm: place.arm.clone(),
                plain_arm: row.arm.clone(),
                told: place.told.clone(),
                step: place.step,
                seeds: BTreeMap::new(),
            });
            groups.len() - 1
        });
        let measured = Measured {
            value: row.value,
            interval: row.ci.unwrap_or([row.value; 2]),
            row: index,
        };
        let cells = groups[at].seeds.entry(place.repeat.clone()).or_default();
        cells.insert(place.set.clone(), measured);
    }
    groups.sort_by_key(|group| (order[group.arm.as_str()], group.step));
    groups
}

/// The groups at each arm's last step.
pub fn last_steps(groups: &[Group]) -> Vec<&Group> {
    let mut last: Vec<&Group> = Vec::new();
    let mut at: HashMap<&str, usize> = HashMap::new();
    for group in groups {
        let index = *at.entry(&group.arm).or_insert(last.len());
        match last.get_mut(index) {
            Some(other) if other.step <= group.step => *other = group,
            Some(_) => {}
            None => last.push(group),
        }
    }
    last
}

/// How intervals are to be read: standard errors as soon as some arm has two seeds.
pub fn spread(groups: &[Group]) -> Spread {
    match groups.iter().map(|group| group.seeds.len()).max() {
        Some(seeds @ 2..) => Spread::StandardError { seeds },
        _ => Spread::Wilson95,
    }
}

impl Group {
    /// How many seeds it has; none where the axis does not touch it.
    pub fn seed_count(&self) -> Option<usize> {
        let untouched = self.seeds.len() == 1 && self.seeds.contains_key("");
        (!untouched).then_some(self.seeds.len())
    }

    /// The mean over `sets` for each seed that has them all.
    pub fn by_seed(&self, sets: &[&str]) -> BTreeMap<&str, Measured> {
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
    pub fn estimate(&self, sets: &[&str]) -> Option<Estimate> {
        let by_seed: Vec<Measured> = self.by_seed(sets).into_values().collect();
        let runs = by_seed.len();
        if let [only] = by_seed.as_slice() {
            let [low, high] = only.interval;
            return Some(Estimate {
                value: only.value,
                low,
                high,
                runs,
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
            runs,
        })
    }
}

/// The runs of two arms that belong together: seed by seed, and a run that the seeds do not touch with each of the
/// other's. Only those whose sets hold the same samples, as `same` says of two rows.
pub fn pairs(
    arm: &Group,
    versus: &Group,
    sets: &[&str],
    same: impl Fn(usize, usize) -> bool,
) -> Vec<(Vec<Measured>, Vec<Measured>)> {
    let runs = |group: &Group| -> Vec<(String, Vec<Measured>)> {
        let of = |cells: &BTreeMap<String, Measured>| {
            sets.iter()
                .map(|set| cells.get(*set).copied())
                .collect::<Option<Vec<_>>>()
        };
        let all = group.seeds.iter();
        all.filter_map(|(seed, cells)| Some((seed.clone(), of(cells)?)))
            .collect()
    };
    let (ours, theirs) = (runs(arm), runs(versus));
    let mut found = Vec::new();
    for (seed, one) in &ours {
        for (other_seed, other) in &theirs {
            let meet = seed == other_seed || seed.is_empty() || other_seed.is_empty();
            let alike = || one.iter().zip(other).all(|(a, b)| same(a.row, b.row));
            if meet && alike() {
                found.push((one.clone(), other.clone()));
            }
        }
    }
    found
}

/// The mean over independent sets. Half widths of intervals add as standard deviations do: root of the sum of
/// squares, divided by the number of sets.
pub fn mean_of_sets(found: &[Measured]) -> Option<Measured> {
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
        row: found[0].row,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::results::places::places;

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
            stage: "eval".to_owned(),
            model: None,
            data: None,
        }
    }

    fn accuracy(rows: &[ResultRow]) -> Vec<Group> {
        group(rows, &places(rows, SEED), "accuracy")
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
        let groups = accuracy(&rows);
        let arms: Vec<&str> = groups.iter().map(|group| group.arm.as_str()).collect();
        assert_eq!(arms, ["sft/easy lr=0.1", "sft/easy lr=0.2", "grpo"]);
    }

    #[test]
    fn an_axis_that_picks_the_step_or_the_set_is_not_shown_whatever_its_name() {
        let rows = [(100, "val"), (100, "rendition"), (300, "val")].map(|(step, set)| {
            let axes = json!({"on": set, "checkpoint": format!("step-{step}")});
            row("sft/all", axes, Some(step), set, 0.5)
        });
        let groups = accuracy(&rows);
        let shown: Vec<(&str, Option<u64>)> = groups
            .iter()
            .map(|group| (group.arm.as_str(), group.step))
            .collect();
        assert_eq!(shown, [("sft/all", Some(100)), ("sft/all", Some(300))]);
    }

    #[test]
    fn seeds_become_a_mean_with_its_standard_error() {
        let rows = [0.5, 0.7].map(|value| row("a", json!({"seed": value}), None, "val", value));
        let groups = accuracy(&rows);
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
        let groups = accuracy(&rows);
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
        let groups = accuracy(&rows);
        assert_eq!(groups[0].estimate(&["ood_a", "ood_b"]).unwrap().value, 0.5);
    }

    #[test]
    fn the_last_step_of_each_arm_is_kept() {
        let rows = [
            row("a", json!({}), Some(200), "val", 0.2),
            row("a", json!({}), Some(100), "val", 0.1),
            row("base", json!({}), None, "val", 0.3),
        ];
        let groups = accuracy(&rows);
        let steps: Vec<Option<u64>> = groups.iter().map(|group| group.step).collect();
        assert_eq!(steps, [Some(100), Some(200), None]);
        let last: Vec<Option<u64>> = last_steps(&groups).iter().map(|group| group.step).collect();
        assert_eq!(last, [Some(200), None]);
    }
}

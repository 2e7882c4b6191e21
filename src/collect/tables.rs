//! The results table, paired differences and curves.

use std::collections::BTreeMap;

use dcsft_engine::results::arms::{self, Group};
use dcsft_engine::results::places::STAGE;
use dcsft_engine::results::statistics::{Estimate, Gap};

use super::{FORMAT_ACCURACY, Results};
use crate::report::data::{ArmRow, ArmTime, Curve, CurvePoint, Difference, ResultTable};

/// Curves are drawn of at most this many arms.
const MAX_CURVES: usize = 8;
/// So many arms are compared each with each other where nothing says which to compare.
pub(super) const FEW: usize = 6;

/// Names of the sets of one split.
pub(super) fn split_sets(sets: &[(String, bool)], ood: bool) -> Vec<&str> {
    sets.iter()
        .filter(|(_, is_ood)| *is_ood == ood)
        .map(|(set, _)| set.as_str())
        .collect()
}

/// Every arm at every step.
pub(crate) fn all_steps(results: &Results<'_>, groups: &[Group], times: &[ArmTime]) -> ResultTable {
    table(results, &groups.iter().collect::<Vec<_>>(), times)
}

/// Every arm at its last step.
pub(crate) fn final_steps(
    results: &Results<'_>,
    groups: &[Group],
    times: &[ArmTime],
) -> ResultTable {
    table(results, &arms::last_steps(groups), times)
}

fn table(results: &Results<'_>, groups: &[&Group], times: &[ArmTime]) -> ResultTable {
    let sets = arms::sets(&results.places);
    let (id, ood) = (split_sets(&sets, false), split_sets(&sets, true));
    let seeds = groups.iter().map(|group| group.seeds.len()).max();
    let formats = results.groups(FORMAT_ACCURACY);
    let rows = groups
        .iter()
        .map(|group| {
            let format = formats
                .iter()
                .find(|other| other.arm == group.arm && other.step == group.step);
            ArmRow {
                arm: group.arm.clone(),
                step: group.step,
                seeds: group.seed_count(),
                cells: sets.iter().map(|(set, _)| group.estimate(&[set])).collect(),
                id: mean(group, &id),
                ood: mean(group, &ood),
                format: format
                    .and_then(|format| mean(format, &id))
                    .map(|estimate| estimate.value),
                seconds: times
                    .iter()
                    .find(|time| time.arm == group.arm)
                    .map(|time| time.training),
            }
        })
        .collect();
    ResultTable {
        sets,
        rows,
        seeds: seeds.unwrap_or(1),
    }
}

fn mean(group: &Group, sets: &[&str]) -> Option<Estimate> {
    if sets.is_empty() {
        None
    } else {
        group.estimate(sets)
    }
}

/// Differences at last steps, over the seeds that both arms have, of the pairs that [`chosen`] names.
pub(crate) fn differences(results: &Results<'_>, groups: &[Group]) -> Vec<Difference> {
    let last = arms::last_steps(groups);
    let sets = arms::sets(&results.places);
    let (id, ood) = (split_sets(&sets, false), split_sets(&sets, true));
    chosen(results, &last)
        .into_iter()
        .map(|(arm, versus)| Difference {
            arm: arm.arm.clone(),
            versus: versus.arm.clone(),
            id: gap(results, arm, versus, &id),
            ood: gap(results, arm, versus, &ood),
        })
        .filter(|difference| difference.id.is_some() || difference.ood.is_some())
        .collect()
}

/// The pairs of arms that are compared: easy+medium against all, hard and GRPO; GRPO and medium against all; each subset
/// against its random control; each arm against the baseline. Where that names none, and the arms are few, each two.
pub(super) fn chosen<'g>(results: &Results<'_>, last: &[&'g Group]) -> Vec<(&'g Group, &'g Group)> {
    let named = pairs(results, last);
    if named.is_empty() && last.len() <= FEW {
        each_two(last)
    } else {
        named
    }
}

/// Each two arms, the later one against the earlier one.
pub(super) fn each_two<'g>(last: &[&'g Group]) -> Vec<(&'g Group, &'g Group)> {
    let later = |(at, versus): (usize, &&'g Group)| {
        let versus = *versus;
        last[at + 1..]
            .iter()
            .map(move |arm| (*arm, versus))
            .collect::<Vec<_>>()
    };
    last.iter().enumerate().flat_map(later).collect()
}

fn pairs<'g>(results: &Results<'_>, last: &[&'g Group]) -> Vec<(&'g Group, &'g Group)> {
    let short = |group: &Group| {
        group
            .plain_arm
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let with = |name: &str| -> Vec<&'g Group> {
        last.iter()
            .copied()
            .filter(|group| short(group) == name)
            .collect()
    };
    let mut pairs = Vec::new();
    let mut add = |arms: &[&'g Group], others: &[&'g Group]| {
        for &arm in arms {
            // Where a grid makes several of each, only those that differ in nothing else are a pair.
            pairs.extend(
                others
                    .iter()
                    .filter(|other| same_axes(arm, other))
                    .map(|&other| (arm, other)),
            );
        }
    };
    for (arm, others) in [
        ("easy+medium", ["all", "hard", "grpo"].as_slice()),
        ("grpo", &["all"]),
        ("medium", &["all"]),
    ] {
        for other in others {
            add(&with(arm), &with(other));
        }
    }
    for &control in last {
        if let Some(subset) = short(control).strip_prefix("random-") {
            add(&with(subset), &[control]);
        }
    }
    if let Some(baseline) = results.baseline() {
        let base: Vec<&Group> = last
            .iter()
            .copied()
            .filter(|group| group.plain_arm == baseline)
            .collect();
        for &arm in last.iter().filter(|arm| arm.plain_arm != baseline) {
            match base.as_slice() {
                [only] => pairs.push((arm, *only)),
                several => pairs.extend(
                    several
                        .iter()
                        .filter(|other| same_axes(arm, other))
                        .map(|&other| (arm, other)),
                ),
            }
        }
    }
    pairs
}

/// Whether the axes shown beside the arm are the same.
fn same_axes(a: &Group, b: &Group) -> bool {
    let axes = |group: &Group| -> Vec<(String, String)> {
        let told = group.told.iter();
        told.filter(|(name, _)| name != STAGE).cloned().collect()
    };
    axes(a) == axes(b)
}

fn gap(results: &Results<'_>, arm: &Group, versus: &Group, sets: &[&str]) -> Option<Gap> {
    if sets.is_empty() {
        return None;
    }
    let runs = arms::pairs(arm, versus, sets, |a, b| results.same_samples(a, b));
    let gaps: Vec<f64> = runs
        .iter()
        .filter_map(|(ours, theirs)| {
            Some(arms::mean_of_sets(ours)?.value - arms::mean_of_sets(theirs)?.value)
        })
        .collect();
    Gap::of(&gaps)
}

/// Accuracy over steps: of easy+medium and GRPO where both were evaluated at several steps, else of the first arms
/// that were. Each begins at step 0 with the baseline it was trained from.
pub(crate) fn curves(results: &Results<'_>, groups: &[Group]) -> Vec<Curve> {
    let sets = arms::sets(&results.places);
    let (id, ood) = (split_sets(&sets, false), split_sets(&sets, true));
    let mut arms: BTreeMap<usize, (&str, Vec<CurvePoint>)> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for group in groups {
        let Some(step) = group.step else { continue };
        let index = order
            .iter()
            .position(|arm| *arm == group.arm)
            .unwrap_or_else(|| {
                order.push(&group.arm);
                order.len() - 1
            });
        let point = CurvePoint {
            step,
            id: mean(group, &id),
            ood: mean(group, &ood),
        };
        arms.entry(index)
            .or_insert_with(|| (&group.arm, Vec::new()))
            .1
            .push(point);
    }
    let base: Vec<&Group> = results.baseline().map_or(Vec::new(), |arm| {
        groups
            .iter()
            .filter(|group| group.plain_arm == arm)
            .collect()
    });
    let start = match base.as_slice() {
        [only] => Some(CurvePoint {
            step: 0,
            id: mean(only, &id),
            ood: mean(only, &ood),
        }),
        _ => None,
    };
    let mut curves: Vec<Curve> = arms
        .into_values()
        .filter(|(_, points)| points.len() > 1)
        .map(|(arm, points)| Curve {
            arm: arm.to_owned(),
            points: start.into_iter().chain(points).collect(),
        })
        .collect();
    let featured = |arm: &str| arm == "grpo" || arm.ends_with("/easy+medium");
    if curves.iter().filter(|curve| featured(&curve.arm)).count() > 1 {
        curves.retain(|curve| featured(&curve.arm));
    }
    curves.truncate(MAX_CURVES);
    curves
}

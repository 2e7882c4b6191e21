//! Arms that were trained over a grid of settings, compared at matched in-distribution accuracy.

use std::collections::BTreeSet;

use dcsft_engine::results::aggregate::mean_and_error;
use dcsft_engine::results::matched::{Point, matched};

use super::Results;
use super::groups::{self, Group};
use super::tables::split_sets;
use crate::report::data::{Gap, MatchedGap};

/// The comparisons that are made, by the last part of the arms' names.
const PAIRS: [(&str, &str); 3] = [
    ("easy+medium", "grpo"),
    ("easy+medium", "all"),
    ("grpo", "all"),
];

/// Compares the pairs of which at least one arm has several settings; one seed at a time, then the mean.
pub(super) fn compare(results: &Results<'_>, groups: &[Group]) -> Vec<MatchedGap> {
    let sets = groups::sets(&results.rows);
    let (id, ood) = (split_sets(&sets, false), split_sets(&sets, true));
    if id.is_empty() || ood.is_empty() {
        return Vec::new();
    }
    let seeds: BTreeSet<&str> = groups
        .iter()
        .flat_map(|group| group.seeds.keys().map(String::as_str))
        .collect();
    let mut found = Vec::new();
    for (arm, versus) in PAIRS.iter().flat_map(|(a, b)| pairs(groups, a, b)) {
        if settings(groups, arm) < 2 && settings(groups, versus) < 2 {
            continue;
        }
        let at = |arm: &str, seed: &str| points(groups, arm, seed, &id, &ood);
        let gaps: Vec<f64> = seeds
            .iter()
            .filter_map(|seed| Some(matched(&at(arm, seed), &at(versus, seed))?.difference))
            .collect();
        if gaps.is_empty() {
            continue;
        }
        let (mean, se) = mean_and_error(&gaps);
        let wins = gaps.iter().filter(|gap| **gap > 0.0).count();
        let gap = Gap {
            mean,
            se,
            pairs: gaps.len(),
            wins,
        };
        found.push(MatchedGap {
            arm: arm.to_owned(),
            versus: versus.to_owned(),
            gap,
        });
    }
    found
}

/// Arms whose names end in `a` with those that end in `b`.
fn pairs<'g>(groups: &'g [Group], a: &str, b: &str) -> Vec<(&'g str, &'g str)> {
    let named = |name: &str| -> BTreeSet<&'g str> {
        let arms = groups.iter().map(|group| group.plain_arm.as_str());
        arms.filter(|arm| arm.rsplit('/').next() == Some(name))
            .collect()
    };
    let others = named(b);
    named(a)
        .into_iter()
        .flat_map(|arm| others.iter().map(move |other| (arm, *other)))
        .collect()
}

/// How many settings an arm has, steps aside.
fn settings(groups: &[Group], arm: &str) -> usize {
    let labels: BTreeSet<&str> = groups
        .iter()
        .filter(|group| group.plain_arm == arm)
        .map(|group| group.arm.as_str())
        .collect();
    labels.len()
}

/// Every setting and step of an arm with one seed.
fn points(groups: &[Group], arm: &str, seed: &str, id: &[&str], ood: &[&str]) -> Vec<Point> {
    let of_arm = groups.iter().filter(|group| group.plain_arm == arm);
    of_arm
        .filter_map(|group| {
            let value = |sets: &[&str]| Some(group.by_seed(sets).get(seed)?.value);
            Some(Point {
                id: value(id)?,
                ood: value(ood)?,
            })
        })
        .collect()
}

//! Arms that were evaluated at several points (steps, learning rates), compared at matched in-distribution accuracy.

use std::collections::{BTreeMap, BTreeSet};

use dcsft_engine::results::arms::{self, Group, Measured};
use dcsft_engine::results::matched::{Point, matched};
use dcsft_engine::results::places::{EVALUATION, STAGE};
use dcsft_engine::results::statistics::{Gap, mean_and_error};

use super::Results;
use super::tables::split_sets;
use crate::report::data::MatchedGap;

/// Pairs that stand first and this way round, by the last part of the arms' names.
const PAIRS: [(&str, &str); 3] = [
    ("easy+medium", "grpo"),
    ("easy+medium", "all"),
    ("grpo", "all"),
];

/// By seed, every setting and step of an arm, with the rows of its sets.
type Points = BTreeMap<String, Vec<(Point, Vec<Measured>)>>;

/// An arm over all its settings.
struct Curve<'a> {
    /// The arm, with what is no setting of its training: the stage, the way it was evaluated, its conditions.
    name: String,
    arm: &'a str,
    /// Axes that the evaluated set depends on: no settings, but other questions.
    conditions: BTreeMap<&'a str, &'a str>,
    points: Points,
}

impl Curve<'_> {
    /// The most points with one seed.
    fn len(&self) -> usize {
        self.points.values().map(Vec::len).max().unwrap_or(0)
    }

    /// The points with this seed; an arm that the seeds do not touch has the same ones with each.
    fn with(&self, seed: &str) -> Option<&Vec<(Point, Vec<Measured>)>> {
        let untouched = self.points.len() == 1 && self.points.contains_key("");
        self.points.get(if untouched { "" } else { seed })
    }
}

/// Compares each two arms under the same conditions of which one has several points and neither is a baseline of one
/// point; one seed at a time, then the mean.
pub(super) fn compare(results: &Results<'_>, groups: &[Group]) -> Vec<MatchedGap> {
    let sets = arms::sets(&results.places);
    let (id, ood) = (split_sets(&sets, false), split_sets(&sets, true));
    if id.is_empty() || ood.is_empty() {
        return Vec::new();
    }
    let mut curves: Vec<Curve<'_>> = Vec::new();
    for group in groups {
        let curve = empty_curve(results, group);
        let at = curves.iter().position(|known| known.name == curve.name);
        let at = at.unwrap_or_else(|| {
            curves.push(curve);
            curves.len() - 1
        });
        add(&mut curves[at].points, group, &id, &ood);
    }
    curves.retain(|curve| {
        let baseline = results.baseline() == Some(curve.arm);
        curve.len() > usize::from(baseline)
    });
    let pairs = ordered(&curves).into_iter();
    let worth = pairs.filter(|(a, b)| a.len() > 1 || b.len() > 1);
    worth
        .filter_map(|(a, b)| compare_two(results, a, b))
        .collect()
}

/// The curve that a group is a point of, without its points.
fn empty_curve<'a>(results: &'a Results<'_>, group: &'a Group) -> Curve<'a> {
    let row = group.seeds.values().flat_map(BTreeMap::values).next();
    let data = row.and_then(|measured| results.rows[measured.row].data.as_ref());
    let mut name = group.plain_arm.clone();
    let mut conditions = BTreeMap::new();
    for (field, value) in &group.told {
        let condition = data.is_some_and(|data| data.axes.contains_key(field));
        if condition {
            conditions.insert(field.as_str(), value.as_str());
        }
        if condition || [STAGE, EVALUATION].contains(&field.as_str()) {
            name += &format!(" {field}={value}");
        }
    }
    Curve {
        name,
        arm: &group.plain_arm,
        conditions,
        points: Points::new(),
    }
}

fn add(curve: &mut Points, group: &Group, id: &[&str], ood: &[&str]) {
    let (of_id, of_ood) = (group.by_seed(id), group.by_seed(ood));
    for (seed, cells) in &group.seeds {
        let (Some(id_value), Some(ood_value)) =
            (of_id.get(seed.as_str()), of_ood.get(seed.as_str()))
        else {
            continue;
        };
        let point = Point {
            id: id_value.value,
            ood: ood_value.value,
        };
        let rows = id
            .iter()
            .chain(ood)
            .filter_map(|set| cells.get(*set).copied());
        curve
            .entry(seed.clone())
            .or_default()
            .push((point, rows.collect()));
    }
}

/// Each two under the same conditions, those of [`PAIRS`] first; else the later arm against the earlier one.
fn ordered<'c, 'a>(curves: &'c [Curve<'a>]) -> Vec<(&'c Curve<'a>, &'c Curve<'a>)> {
    fn short(arm: &str) -> &str {
        arm.rsplit('/').next().unwrap_or_default()
    }
    let rank = |a: &Curve<'_>, b: &Curve<'_>| {
        let named = |(x, y): &(&str, &str)| short(a.arm) == *x && short(b.arm) == *y;
        PAIRS.iter().position(named)
    };
    let alike = |a: &Curve<'_>, b: &Curve<'_>| {
        let mut common = a.conditions.iter();
        common.all(|(axis, value)| b.conditions.get(axis).is_none_or(|other| other == value))
    };
    let mut pairs = Vec::new();
    for (at, versus) in curves.iter().enumerate() {
        for arm in curves[at + 1..].iter().filter(|arm| alike(arm, versus)) {
            match (rank(arm, versus), rank(versus, arm)) {
                (_, Some(place)) => pairs.push((place, (versus, arm))),
                (place, None) => pairs.push((place.unwrap_or(PAIRS.len()), (arm, versus))),
            }
        }
    }
    pairs.sort_by_key(|(place, _)| *place);
    pairs.into_iter().map(|(_, pair)| pair).collect()
}

/// None where they have no seed in common, or not the same samples.
fn compare_two(results: &Results<'_>, arm: &Curve<'_>, versus: &Curve<'_>) -> Option<MatchedGap> {
    let (mut gaps, mut ranges, mut apart) = (Vec::new(), Vec::new(), 0);
    let mut seeds: BTreeSet<&str> = arm
        .points
        .keys()
        .chain(versus.points.keys())
        .map(String::as_str)
        .collect();
    if seeds.len() > 1 {
        seeds.remove("");
    }
    for seed in seeds {
        let (Some(a), Some(b)) = (arm.with(seed), versus.with(seed)) else {
            continue;
        };
        let rows = |points: &[(Point, Vec<Measured>)]| -> Vec<Measured> {
            points.iter().flat_map(|(_, rows)| rows).copied().collect()
        };
        // Sets stand in one order in each point.
        let mut alike = rows(a).into_iter().zip(rows(b));
        if !alike.all(|(a, b)| results.same_samples(a.row, b.row)) {
            continue;
        }
        let points = |points: &[(Point, Vec<Measured>)]| -> Vec<Point> {
            points.iter().map(|(point, _)| *point).collect()
        };
        match matched(&points(a), &points(b)) {
            Some(found) => {
                gaps.push(found.difference);
                ranges.push(found.range);
            }
            None => apart += 1,
        }
    }
    if gaps.is_empty() && apart == 0 {
        return None;
    }
    let gap = Gap::of(&gaps);
    let end = |index: usize| {
        let ends: Vec<f64> = ranges.iter().map(|range| range[index]).collect();
        mean_and_error(&ends).0
    };
    Some(MatchedGap {
        arm: arm.name.clone(),
        versus: versus.name.clone(),
        gap,
        range: (!ranges.is_empty()).then(|| [end(0), end(1)]),
        apart,
    })
}

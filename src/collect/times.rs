//! Training time of arms, and the rollout scoring that their training sets need.

use std::collections::BTreeSet;

use dcsft_engine::results::aggregate::mean_and_error;
use dcsft_engine::study::{Node, NodeId, plain};

use super::Results;
use crate::report::data::ArmTime;

/// Kinds that train.
const TRAINERS: [&str; 2] = ["sft", "grpo"];

/// Time of each arm that was evaluated, in the order of the spec. Seconds are the mean over the arm's cells.
pub(super) fn arm_times(results: &Results<'_>) -> Vec<ArmTime> {
    let mut arms: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    let mut seen: BTreeSet<(String, NodeId)> = BTreeSet::new();
    for (arm, trainer) in trained(results) {
        if !seen.insert((arm.clone(), trainer.id)) {
            continue;
        }
        let Some(record) = &results.records[trainer.id.0] else {
            continue;
        };
        let time = (record.cost_seconds(), scoring(results, trainer));
        match arms.iter_mut().find(|(name, _)| *name == arm) {
            Some((_, times)) => times.push(time),
            None => arms.push((arm, vec![time])),
        }
    }
    let mean = |values: Vec<f64>| mean_and_error(&values).0;
    arms.into_iter()
        .map(|(arm, times)| ArmTime {
            arm,
            training: mean(times.iter().map(|(training, _)| *training).collect()),
            scoring: mean(times.iter().map(|(_, scoring)| *scoring).collect()),
        })
        .collect()
}

/// (arm label as in the table, the node that trained it) of every evaluation.
fn trained<'a>(results: &'a Results<'_>) -> Vec<(String, &'a Node)> {
    let labels = super::groups::group(&results.rows, super::ACCURACY);
    let mut found = Vec::new();
    for node in results
        .study
        .nodes
        .iter()
        .filter(|node| node.kind == "eval")
    {
        let Some(trainer) = input(results, node, "model").map(|(trainer, _)| trainer) else {
            continue;
        };
        if !TRAINERS.contains(&trainer.kind.as_str()) {
            continue;
        }
        let axes = |label: &str| {
            label.split(' ').skip(1).all(|part| {
                part.split_once('=').is_none_or(|(axis, value)| {
                    node.axes.get(axis).is_some_and(|own| plain(own) == value)
                })
            })
        };
        let label = labels
            .iter()
            .find(|group| group.plain_arm == node.arm && axes(&group.arm));
        found.extend(label.map(|group| (group.arm.clone(), trainer)));
    }
    found
}

/// The node that an input of `node` reads, and which output of it.
fn input<'a>(results: &'a Results<'_>, node: &Node, name: &str) -> Option<(&'a Node, String)> {
    let (_, references) = node.inputs.iter().find(|(input, _)| input == name)?;
    let reference = references.first()?;
    Some((
        &results.study.nodes[reference.node.0],
        reference.output.clone(),
    ))
}

/// Seconds of binning and of the rollouts behind the training set; 0 where the set is not one of the bins. The
/// output `all` is the scored set itself, which nobody needs scores for.
fn scoring(results: &Results<'_>, trainer: &Node) -> f64 {
    let seconds = |node: &Node| {
        results.records[node.id.0]
            .as_ref()
            .map_or(0.0, |record| record.cost_seconds())
    };
    match input(results, trainer, "data") {
        Some((bins, output)) if bins.kind == "difficulty" && output != "all" => {
            let rollouts =
                input(results, bins, "rollouts").map_or(0.0, |(rollouts, _)| seconds(rollouts));
            seconds(bins) + rollouts
        }
        _ => 0.0,
    }
}

//! Training time of arms, and the rollout scoring that their training sets need.

use std::collections::{BTreeMap, BTreeSet};

use dcsft_cache::{Digest, Record};
use dcsft_engine::record::Execution;
use dcsft_engine::results::statistics::mean_and_error;
use dcsft_engine::stage::Cost;
use dcsft_engine::study::{Node, NodeId};

use super::Results;
use crate::report::data::{ArmTime, Clock, Timing};

/// Kinds that train.
const TRAINERS: [&str; 2] = ["sft", "grpo"];

/// Time of each arm that was evaluated, in the order of the spec, and what these times are. Seconds are the mean over
/// the arm's cells.
pub(super) fn arm_times(results: &Results<'_>) -> (Vec<ArmTime>, Timing) {
    let mut arms: Vec<(String, Vec<(Cost, Cost)>)> = Vec::new();
    let mut timed: BTreeMap<Digest, Execution> = BTreeMap::new();
    let mut seen: BTreeSet<(String, NodeId)> = BTreeSet::new();
    for (arm, trainer) in trained(results) {
        if !seen.insert((arm.clone(), trainer.id)) {
            continue;
        }
        let Some(record) = &results.records[trainer.id.0] else {
            continue;
        };
        let scoring = scoring(results, trainer);
        let behind = scoring.iter().copied().chain([&**record]);
        timed.extend(behind.map(|record| (record.key, Execution::of(record))));
        let scored = scoring
            .into_iter()
            .map(|record| Execution::of(record).cost());
        let time = (
            Execution::of(record).cost(),
            scored.fold(Cost::default(), |sum, cost| sum + cost),
        );
        match arms.iter_mut().find(|(name, _)| *name == arm) {
            Some((_, times)) => times.push(time),
            None => arms.push((arm, vec![time])),
        }
    }
    let costs = arms.iter().flat_map(|(_, times)| times);
    let timing = Timing {
        clock: clock(&timed, costs),
        stages: timed.len(),
        shared: timed
            .values()
            .filter(|executed| executed.shared == Some(true))
            .count(),
    };
    let seconds = |cost: &Cost| match timing.clock {
        Clock::Cpu => cost.cpu_seconds.unwrap_or(cost.seconds),
        Clock::WallOnGpu | Clock::WallForWant => cost.seconds,
    };
    let mean = |values: Vec<f64>| mean_and_error(&values).0;
    let arms = arms.into_iter().map(|(arm, times)| ArmTime {
        arm,
        training: mean(
            times
                .iter()
                .map(|(training, _)| seconds(training))
                .collect(),
        ),
        scoring: mean(times.iter().map(|(_, scoring)| seconds(scoring)).collect()),
    });
    (arms.collect(), timing)
}

/// The clock that all of these can be measured by. Times of two clocks are never compared.
fn clock<'a>(
    timed: &BTreeMap<Digest, Execution>,
    costs: impl Iterator<Item = &'a (Cost, Cost)>,
) -> Clock {
    let on_cpu = |executed: &Execution| executed.device.as_deref().is_none_or(|at| at == "cpu");
    if !timed.values().all(on_cpu) {
        return Clock::WallOnGpu;
    }
    let known = |(a, b): &(Cost, Cost)| a.cpu_seconds.is_some() && b.cpu_seconds.is_some();
    if costs.into_iter().all(known) {
        Clock::Cpu
    } else {
        Clock::WallForWant
    }
}

/// (arm label as in the table, the node that trained it) of every evaluation.
fn trained<'a>(results: &'a Results<'_>) -> Vec<(String, &'a Node)> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (id, place) in results.nodes.iter().zip(&results.places) {
        if !seen.insert(*id) {
            continue;
        }
        let node = &results.study.nodes[id.0];
        let trainer = input(results, node, "model").map(|(trainer, _)| trainer);
        if let Some(trainer) = trainer.filter(|node| TRAINERS.contains(&node.kind.as_str())) {
            found.push((place.arm.clone(), trainer));
        }
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

/// Records of binning and of the rollouts behind the training set; none where the set is not one of the bins. The
/// output `all` is the scored set itself, which nobody needs scores for.
fn scoring<'a>(results: &'a Results<'_>, trainer: &Node) -> Vec<&'a Record> {
    let record = |node: &Node| results.records[node.id.0].as_deref();
    match input(results, trainer, "data") {
        Some((bins, output)) if bins.kind == "difficulty" && output != "all" => {
            let rollouts = input(results, bins, "rollouts").and_then(|(node, _)| record(node));
            record(bins).into_iter().chain(rollouts).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(devices: &[&str]) -> BTreeMap<Digest, Execution> {
        let executed = |device: &&str| Execution {
            device: Some((*device).to_owned()),
            ..Execution::default()
        };
        let key = |device: &&str| Digest::of_bytes(device.as_bytes());
        devices
            .iter()
            .map(|device| (key(device), executed(device)))
            .collect()
    }

    fn clock_of(devices: &[&str], cpu_seconds: Option<f64>) -> Clock {
        let cost = Cost {
            seconds: 4.0,
            cpu_seconds,
        };
        clock(&timed(devices), [(cost, Cost::default())].iter())
    }

    #[test]
    fn processor_time_counts_where_all_of_it_is_known_and_nothing_ran_on_a_gpu() {
        assert_eq!(clock_of(&["cpu"], Some(2.0)), Clock::Cpu);
        assert_eq!(clock_of(&["cpu"], None), Clock::WallForWant);
        assert_eq!(clock_of(&["cpu", "cuda:0"], Some(2.0)), Clock::WallOnGpu);
    }

    #[test]
    fn a_shared_processor_is_told_of() {
        let timing = Timing {
            stages: 4,
            ..Timing::default()
        };
        assert!(!timing.words().contains("other programs"));
        let shared = Timing {
            shared: 3,
            ..timing
        };
        assert!(
            shared.words().contains("While 3 of the 4 timed stages ran"),
            "{}",
            shared.words()
        );
    }
}

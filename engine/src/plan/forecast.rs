//! What is expected of stages before they run: how much memory they take, facts about what they will write, and params that
//! their inputs do not allow.
//!
//! Facts flow down the graph along the references, whether or not anything has run yet: a model's sizes reach the
//! stages that train it and evaluate it. What a fact looks like is between the kinds that write and read it; the
//! engine hands it on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dcsft_cache::Store;
use rayon::prelude::*;

use super::Plan;
use super::job::params_with_paths;
use super::unfit::Unfit;
use crate::diagnostic::Diagnostics;
use crate::stage::{Fact, Forecast, Memory, Prospect, Registry};
use crate::study::{Node, NodeId, Reference, Study};

/// So many stages are forecast at once: their facts are held together before equal ones are shared.
const AT_ONCE: usize = 1024;

/// Facts about the outputs of a stage.
type Facts = Arc<BTreeMap<String, Fact>>;

/// What is expected of a study.
#[derive(Debug)]
pub struct Outlook {
    /// The estimated memory of each node, where there is an estimate.
    pub memories: Vec<Option<Memory>>,
    /// Params that the inputs of their stages do not allow, of stages that have to run: they would fail at their start.
    pub problems: Diagnostics,
}

/// Forecasts each node of the study. `threads` are those of a run's stages together.
pub fn outlook(
    study: &Study,
    registry: &Registry,
    plan: &Plan,
    store: &Store,
    threads: usize,
) -> Outlook {
    walk(study, registry, plan, store, Some(threads))
}

/// The problems of an [`Outlook`] by themselves, for which no data is read.
pub fn problems(study: &Study, registry: &Registry, plan: &Plan, store: &Store) -> Diagnostics {
    walk(study, registry, plan, store, None).problems
}

/// Without `threads` no memory is asked for.
fn walk(
    study: &Study,
    registry: &Registry,
    plan: &Plan,
    store: &Store,
    threads: Option<usize>,
) -> Outlook {
    let mut memories = Vec::with_capacity(study.nodes.len());
    let mut unfit = Unfit::default();
    // A study has as many facts as it has stages: they go when their last reader has had them, and cells that differ in
    // nothing that matters here share them.
    let last_reader = last_readers(study);
    let mut facts: Vec<Facts> = Vec::with_capacity(study.nodes.len());
    let mut latest = Facts::default();
    for wave in study.waves(AT_ONCE) {
        let forecasts: Vec<Forecast> = wave
            .par_iter()
            .with_min_len(16)
            .map(|node| {
                let fact = |reference: &Reference| {
                    let facts = &facts[reference.node.0];
                    facts.get(&reference.output).cloned()
                };
                let inputs = node.inputs.iter().map(|(name, references)| {
                    let facts = references.iter().map(fact).collect();
                    (name.clone(), facts)
                });
                let prospect = Prospect {
                    device: plan.options.device.clone(),
                    memory: threads.is_some(),
                    threads: (node.execution.resources.threads).or(threads).unwrap_or(1),
                    inputs: inputs.collect(),
                    outputs: outputs(plan, store, node),
                };
                let kind = registry.get(&node.kind);
                let params = || params_with_paths(node, &study.root);
                kind.map(|kind| kind.forecast(&params(), &prospect))
                    .unwrap_or_default()
            })
            .collect();
        for (node, forecast) in wave.iter().zip(forecasts) {
            memories.push(forecast.memory);
            if plan.node(node.id).state.record().is_none() {
                unfit.take(node, forecast.problems);
            }
            let read = last_reader[node.id.0].is_some();
            if read && *latest != forecast.facts {
                latest = Arc::new(forecast.facts);
            }
            facts.push(if read {
                Arc::clone(&latest)
            } else {
                Facts::default()
            });
            for reference in node.inputs.iter().flat_map(|(_, references)| references) {
                if last_reader[reference.node.0] == Some(node.id) {
                    facts[reference.node.0] = Facts::default();
                }
            }
        }
    }
    Outlook {
        memories,
        problems: unfit.finish(study),
    }
}

/// For each node the last one that reads it.
fn last_readers(study: &Study) -> Vec<Option<NodeId>> {
    let mut last = vec![None; study.nodes.len()];
    for node in &study.nodes {
        for reference in node.inputs.iter().flat_map(|(_, references)| references) {
            last[reference.node.0] = Some(node.id);
        }
    }
    last
}

fn outputs(plan: &Plan, store: &Store, node: &Node) -> BTreeMap<String, PathBuf> {
    let record = plan.node(node.id).state.record();
    record
        .into_iter()
        .flat_map(|record| &record.outputs)
        .map(|(name, output)| (name.clone(), store.artifact_files(&output.digest)))
        .collect()
}

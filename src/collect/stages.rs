//! The DAG figure's boxes and the table of all stages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dcsft_cache::Record;
use dcsft_engine::record::Execution;
use dcsft_engine::study::Node;

use super::Results;
use super::history::History;
use crate::origin::{self, Origin};
use crate::report::data::{NodeRow, StageBox};

/// What the last run did with a node.
fn state(record: Option<&Arc<Record>>, node: &Node, history: &History) -> &'static str {
    let title = node.title();
    match record {
        Some(record) if history.made(&title, record) => "executed",
        Some(_) => "cached",
        None if history.failed.contains(&title) => "failed",
        None => "not run",
    }
}

/// One row per node.
pub(super) fn rows(results: &Results<'_>, history: &History) -> Vec<NodeRow> {
    let runs = origin::runs(results.store);
    let nodes = results.study.nodes.iter().zip(results.records);
    nodes
        .map(|(node, record)| NodeRow {
            title: node.title(),
            kind: node.kind.clone(),
            state: state(record.as_ref(), node, history).to_owned(),
            seconds: record.as_ref().map(|record| Execution::of(record).seconds),
            key: record.as_ref().map(|record| record.key.short()),
            origin: record
                .as_ref()
                .map(|record| Origin::of(record, &runs).cells()),
        })
        .collect()
}

/// One box per stage of the spec, in the order of the nodes. Equal work of several cells is counted once.
pub(super) fn boxes(results: &Results<'_>, history: &History) -> Vec<StageBox> {
    let mut boxes: Vec<StageBox> = Vec::new();
    let mut index: BTreeMap<&str, usize> = BTreeMap::new();
    let mut counted = BTreeSet::new();
    for (node, record) in results.study.nodes.iter().zip(results.records) {
        let at = *index.entry(&node.stage).or_insert_with(|| {
            boxes.push(StageBox {
                name: node.stage.clone(),
                kind: node.kind.clone(),
                ..StageBox::default()
            });
            boxes.len() - 1
        });
        for (_, references) in &node.inputs {
            for reference in references {
                let from = index[results.study.nodes[reference.node.0].stage.as_str()];
                if from != at && !boxes[at].after.contains(&from) {
                    boxes[at].after.push(from);
                }
            }
        }
        let stage = &mut boxes[at];
        stage.cells += 1;
        match state(record.as_ref(), node, history) {
            "cached" => stage.cached += 1,
            "executed" => stage.executed += 1,
            "failed" => stage.failed += 1,
            _ => {}
        }
        if let Some(record) = record
            && counted.insert(record.key)
        {
            stage.seconds += Execution::of(record).seconds;
        }
    }
    boxes
}

//! The order of stages: whoever is referred to comes first; otherwise that of the spec.

use std::collections::{HashMap, VecDeque};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::DfsPostOrder;

use super::compile::Stage;
use crate::diagnostic::{Diagnostic, Findings, Span};

/// Indices of the stages, each after those it refers to. Reports circles and marks their stages as broken.
pub(crate) fn order(stages: &mut [Stage<'_>], findings: &mut Findings) -> Vec<usize> {
    let mut graph: DiGraph<(), Span> = DiGraph::new();
    for _ in stages.iter() {
        graph.add_node(());
    }
    for (index, stage) in stages.iter().enumerate() {
        // petgraph walks the edges of a node from the newest to the oldest.
        for reference in stage.inputs.iter().flat_map(|input| &input.refs).rev() {
            graph.add_edge(
                NodeIndex::new(index),
                NodeIndex::new(reference.target),
                reference.span,
            );
        }
    }
    for component in kosaraju_scc(&graph) {
        let start = component.iter().copied().min().unwrap_or_default();
        if component.len() == 1 && graph.find_edge(start, start).is_none() {
            continue;
        }
        findings.push(circle(stages, &graph, start));
        for member in component {
            stages[member.index()].broken = true;
        }
    }
    let mut walk = DfsPostOrder::empty(&graph);
    let mut order = Vec::with_capacity(stages.len());
    for start in graph.node_indices() {
        walk.move_to(start);
        while let Some(next) = walk.next(&graph) {
            order.push(next.index());
        }
    }
    order
}

/// The shortest circle through `start`.
fn circle(stages: &[Stage<'_>], graph: &DiGraph<(), Span>, start: NodeIndex) -> Diagnostic {
    let mut from: HashMap<NodeIndex, NodeIndex> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        let mut targets: Vec<NodeIndex> = graph.neighbors(node).collect();
        targets.sort_unstable();
        for target in targets {
            if let std::collections::hash_map::Entry::Vacant(entry) = from.entry(target) {
                entry.insert(node);
                queue.push_back(target);
            }
        }
    }
    let mut path = vec![start];
    let mut here = from.get(&start).copied().unwrap_or(start);
    while here != start {
        path.push(here);
        here = from.get(&here).copied().unwrap_or(start);
    }
    path.push(start);
    path.reverse();
    let names: Vec<&str> = path
        .iter()
        .map(|node| stages[node.index()].decl.name.as_str())
        .collect();
    let spans: Vec<Span> = path
        .windows(2)
        .filter_map(|pair| {
            graph
                .find_edge(pair[0], pair[1])
                .and_then(|edge| graph.edge_weight(edge))
        })
        .copied()
        .collect();
    let message = format!(
        "stages refer to each other in a circle: {}",
        names.join(" -> ")
    );
    let mut problem = Diagnostic::error(spans.first().copied(), message);
    for (span, name) in spans.iter().zip(&names[1..]).skip(1) {
        problem = problem.also(*span, format!("and on to `{name}`"));
    }
    problem.label(format!("`{}` reads `{}`", names[0], names[1]))
}

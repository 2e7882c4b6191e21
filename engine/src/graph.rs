//! The study as a directed graph: neighbours, critical paths, and its picture as DOT or Mermaid text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::study::{Node, NodeId, Study};
use crate::text::line;

/// Who reads whose outputs. Node indices are those of [`Study::nodes`], which are in topological order.
#[derive(Clone, Debug)]
pub struct Dag {
    graph: DiGraph<NodeId, ()>,
}

impl Dag {
    /// The graph of a study: one edge for each pair of stages of which one reads the other.
    pub fn new(study: &Study) -> Self {
        let mut graph = DiGraph::with_capacity(study.nodes.len(), study.nodes.len());
        for node in &study.nodes {
            graph.add_node(node.id);
        }
        for node in &study.nodes {
            for reference in node.inputs.iter().flat_map(|(_, references)| references) {
                graph.update_edge(
                    NodeIndex::new(reference.node.0),
                    NodeIndex::new(node.id.0),
                    (),
                );
            }
        }
        Self { graph }
    }

    /// The stages that `node` reads, in ascending order.
    pub fn parents(&self, node: NodeId) -> Vec<NodeId> {
        self.neighbours(node, Direction::Incoming)
    }

    /// The stages that read `node`, in ascending order.
    pub fn children(&self, node: NodeId) -> Vec<NodeId> {
        self.neighbours(node, Direction::Outgoing)
    }

    fn neighbours(&self, node: NodeId, direction: Direction) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = self
            .graph
            .neighbors_directed(NodeIndex::new(node.0), direction)
            .map(|index| self.graph[index])
            .collect();
        found.sort_unstable();
        found
    }

    /// For each stage the cost of the longest path from its start to the end of the study.
    pub fn critical_paths(&self, cost: impl Fn(NodeId) -> f64) -> Vec<f64> {
        let mut paths = vec![0.0_f64; self.graph.node_count()];
        for index in (0..paths.len()).rev() {
            let node = NodeId(index);
            let below = self
                .children(node)
                .iter()
                .map(|child| paths[child.0])
                .fold(0.0, f64::max);
            paths[index] = cost(node) + below;
        }
        paths
    }
}

/// The study in Graphviz' DOT language. `state` is a word to show at each stage, such as `cached`.
pub fn dot(study: &Study, state: impl Fn(NodeId) -> Option<String>) -> String {
    let escape = |name: &str| line(name).replace('\\', "\\\\").replace('"', "\\\"");
    let mut text = String::from(
        "digraph study {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n",
    );
    for node in &study.nodes {
        let lines: Vec<String> = caption(node, state(node.id))
            .iter()
            .map(|name| escape(name))
            .collect();
        let _ = writeln!(text, "  n{} [label=\"{}\"];", node.id.0, lines.join("\\n"));
    }
    for (from, to, output) in edges(study) {
        let _ = writeln!(text, "  n{from} -> n{to} [label=\"{}\"];", escape(output));
    }
    text.push_str("}\n");
    text
}

/// The study as a Mermaid flowchart.
pub fn mermaid(study: &Study, state: impl Fn(NodeId) -> Option<String>) -> String {
    let escape = |name: &str| line(name).replace('"', "#quot;").replace('<', "#lt;");
    let mut text = String::from("flowchart LR\n");
    for node in &study.nodes {
        let lines: Vec<String> = caption(node, state(node.id))
            .iter()
            .map(|name| escape(name))
            .collect();
        let _ = writeln!(text, "  n{}[\"{}\"]", node.id.0, lines.join("<br>"));
    }
    for (from, to, output) in edges(study) {
        let _ = writeln!(text, "  n{from} -- \"{}\" --> n{to}", escape(output));
    }
    text
}

/// The lines in a stage's box: title, kind where the name does not say it, state.
fn caption(node: &Node, state: Option<String>) -> Vec<String> {
    let kind = (node.stage != node.kind).then(|| node.kind.clone());
    [Some(node.title()), kind, state]
        .into_iter()
        .flatten()
        .collect()
}

/// (from, to, output) of every reference, each once.
fn edges(study: &Study) -> BTreeSet<(usize, usize, &str)> {
    study
        .nodes
        .iter()
        .flat_map(|node| {
            let references = node.inputs.iter().flat_map(|(_, references)| references);
            references.map(|reference| (reference.node.0, node.id.0, reference.output.as_str()))
        })
        .collect()
}

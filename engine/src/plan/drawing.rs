//! The picture of a study as DOT or Mermaid text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::study::{Node, NodeId, Study};
use crate::text::line;

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

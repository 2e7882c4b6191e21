//! The study as a directed graph: neighbours and critical paths.

use crate::study::{NodeId, Study};

/// Who reads whose outputs. Node indices are those of [`Study::nodes`], which are in topological order.
#[derive(Clone, Debug)]
pub struct Dag {
    parents: Vec<Vec<NodeId>>,
    children: Vec<Vec<NodeId>>,
}

impl Dag {
    /// The graph of a study: one edge for each pair of stages of which one reads the other.
    pub fn new(study: &Study) -> Self {
        let mut children = vec![Vec::new(); study.nodes.len()];
        let mut parents = Vec::with_capacity(study.nodes.len());
        for node in &study.nodes {
            let references = node.inputs.iter().flat_map(|(_, references)| references);
            let mut read: Vec<NodeId> = references.map(|reference| reference.node).collect();
            read.sort_unstable();
            read.dedup();
            for parent in &read {
                children[parent.0].push(node.id);
            }
            parents.push(read);
        }
        Self { parents, children }
    }

    /// The stages that `node` reads, in ascending order.
    pub fn parents(&self, node: NodeId) -> &[NodeId] {
        &self.parents[node.0]
    }

    /// The stages that read `node`, in ascending order.
    pub fn children(&self, node: NodeId) -> &[NodeId] {
        &self.children[node.0]
    }

    /// For each stage the cost of the longest path from its start to the end of the study.
    pub fn critical_paths(&self, cost: impl Fn(NodeId) -> f64) -> Vec<f64> {
        let mut paths = vec![0.0_f64; self.children.len()];
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

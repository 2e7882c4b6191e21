//! Where artifacts come from, in the words of the spec.

use super::{Node, Reference, Study};
use crate::stage::{ArtifactType, Evaluated, Label, Origin, STEP, step_in, step_value};

impl Study {
    /// Where a referenced artifact comes from.
    pub fn label(&self, reference: &Reference) -> Label {
        let source = &self.nodes[reference.node.0];
        let evaluation = source
            .outputs
            .iter()
            .any(|output| output.name == reference.output && output.artifact.holds_results());
        Label {
            stage: source.stage.clone(),
            output: reference.output.clone(),
            axes: source.axes.clone(),
            arm: source.arm.clone(),
            evaluated: evaluation.then(|| self.evaluated(source)),
        }
    }

    /// What an evaluation's node evaluates, and on what.
    pub fn evaluated(&self, node: &Node) -> Evaluated {
        let first = |artifact| self.reading(node, artifact);
        let own = node
            .outputs
            .iter()
            .find(|output| output.artifact == ArtifactType::Model);
        if let Some(own) = own {
            // A program that trains a model and measures it.
            return Evaluated {
                step: None,
                model: Some(Origin {
                    stage: node.stage.clone(),
                    axes: node.axes.clone(),
                    output: own.name.clone(),
                }),
                data: None,
            };
        }
        let model = first(ArtifactType::Model);
        Evaluated {
            // A checkpoint is named for its step. An axis `step` tells it where no model is read by name.
            step: match model {
                Some(model) => step_in(&model.output),
                None => node.axes.get(STEP).and_then(step_value),
            },
            model: model.map(|model| self.origin(model)),
            data: first(ArtifactType::Dataset).map(|data| self.origin(data)),
        }
    }

    /// The first reference of `node` to an artifact of this type.
    fn reading<'n>(&self, node: &'n Node, artifact: ArtifactType) -> Option<&'n Reference> {
        let mut references = node.inputs.iter().flat_map(|(_, references)| references);
        references.find(|reference| {
            let outputs = &self.nodes[reference.node.0].outputs;
            outputs
                .iter()
                .any(|output| output.name == reference.output && output.artifact == artifact)
        })
    }

    fn origin(&self, reference: &Reference) -> Origin {
        let node = &self.nodes[reference.node.0];
        Origin {
            stage: node.stage.clone(),
            axes: node.axes.clone(),
            output: reference.output.clone(),
        }
    }
}

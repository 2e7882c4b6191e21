//! From stages to nodes, one stage after the other: its cells, their params, and whom they read.

use std::collections::HashSet;
use std::sync::Arc;

use super::axis::Matrix;
use super::cells::{Cells, Surroundings, lengths};
use super::compile::Stage;
use super::fields::Fields;
use super::link::Linker;
use super::origin::Origins;
use super::relation::{MAX_CELLS, Relation};
use super::scope::{Reads, Scope, Vars};
use super::template::Selector;
use crate::diagnostic::{Diagnostic, Findings};
use crate::stage::{ArtifactType, Kind};
use crate::study::{Node, NodeId, Reference};
use crate::text::plain;

/// What the expansion gives.
#[derive(Default)]
pub(crate) struct Expanded {
    /// The nodes.
    pub(crate) nodes: Vec<Node>,
    /// By node: those it reads one by one, not gathered.
    pub(crate) own: Vec<Vec<NodeId>>,
}

/// Turns stages into nodes.
pub(crate) struct Expander<'a> {
    around: Surroundings<'a>,
    vars: &'a Vars<'a>,
    fields: Fields<'a>,
    /// By stage; none where the axes are not known.
    cells: Vec<Option<Cells>>,
    /// Axes that stages read.
    used: HashSet<String>,
    expanded: Expanded,
}

impl<'a> Expander<'a> {
    /// An expander for `stages`; `origins` says what relative paths are relative to.
    pub(crate) fn new(
        stages: &'a [Stage<'a>],
        vars: &'a Vars<'a>,
        top: &'a Matrix,
        origins: Origins,
    ) -> Self {
        Self {
            around: Surroundings { stages, top },
            vars,
            fields: Fields::new(vars, origins),
            cells: stages.iter().map(|_| None).collect(),
            used: HashSet::new(),
            expanded: Expanded::default(),
        }
    }

    /// Expands the stages in `order`.
    pub(crate) fn run(mut self, order: &[usize], findings: &mut Findings) -> Expanded {
        for &index in order {
            self.stage(index, findings);
        }
        if findings.errors() == 0 {
            self.warn_of_unused(findings);
        }
        self.expanded
    }

    fn warn_of_unused(&self, findings: &mut Findings) {
        for axis in self
            .around
            .top
            .axes
            .iter()
            .filter(|axis| !self.used.contains(&axis.name))
        {
            let message = format!("no stage uses the axis `{}`", axis.name);
            let help = format!("use it as `${{matrix.{}}}`, or remove it", axis.name);
            findings.push(Diagnostic::warning(axis.span, message).help(help));
        }
    }

    fn stage(&mut self, index: usize, findings: &mut Findings) {
        let stage = &self.around.stages[index];
        let reads = self.reads(stage);
        self.used.extend(reads.axes.keys().cloned());
        let before = findings.errors();
        let of = |target: &super::compile::Ref| {
            self.cells[target.target]
                .as_ref()
                .map(|cells| &cells.relation)
        };
        let relation = self.around.cells(stage, &reads, of, findings);
        let relation = relation.filter(|relation| self.has_room(stage, relation, findings));
        let known = relation.is_some() && findings.errors() == before;
        let Some(kind) = stage.kind else { return };
        let relation = relation
            .filter(|_| known)
            .unwrap_or_else(|| self.around.one_cell(stage));
        let params = self.fields.resolve(stage, kind, &relation, findings);
        if known {
            let cells = Cells {
                relation,
                first: self.expanded.nodes.len(),
                params,
            };
            self.add_nodes(stage, kind, &cells, findings);
            self.cells[index] = Some(cells);
        }
    }

    /// Whether the cells of a stage are not too many together with those before it.
    fn has_room(&self, stage: &Stage<'_>, relation: &Relation, findings: &mut Findings) -> bool {
        let (before, here) = (self.expanded.nodes.len(), relation.rows.len());
        if before + here <= MAX_CELLS {
            return true;
        }
        let message = format!(
            "the study would have more than {MAX_CELLS} stages: `{}` adds {here} to {before}",
            stage.decl.name
        );
        let problem = Diagnostic::error(stage.decl.span, message).note(lengths(&relation.axes));
        findings.push(problem.help("shorten an axis, or split the study"));
        false
    }

    /// All axes that the stage reads.
    fn reads(&self, stage: &Stage<'_>) -> Reads {
        let mut reads = Reads::default();
        for form in stage.params.iter().map(|(_, form)| form).chain(&stage.arm) {
            form.templates(&mut |template| self.vars.reads(template, &mut reads));
        }
        for reference in stage.inputs.iter().flat_map(|input| &input.refs) {
            for (_, selector, _) in &reference.expr.selectors {
                if let Selector::Pin(value) = selector {
                    self.vars.reads(value, &mut reads);
                }
            }
            if let Some(output) = &reference.expr.output {
                self.vars.reads(output, &mut reads);
            }
        }
        reads
    }

    /// Makes the nodes of a stage whose cells are known.
    fn add_nodes(
        &mut self,
        stage: &Stage<'_>,
        kind: &dyn Kind,
        cells: &Cells,
        findings: &mut Findings,
    ) {
        let linker = Linker::new(stage, &cells.relation, self.around.stages, &self.cells);
        let places = Arc::new(self.fields.places(stage));
        for (at, row) in cells.relation.rows.iter().enumerate() {
            let scope = Scope::new(self.vars, &cells.relation.axes, row);
            let (inputs, own) = linker.inputs(&scope, findings);
            let resolved = cells.params[at].as_deref();
            let (params, outputs, files) = resolved.map_or_else(Default::default, |resolved| {
                (
                    resolved.params.clone(),
                    resolved.outputs.clone(),
                    resolved.files.clone(),
                )
            });
            let axes = cells.relation.axes.iter().zip(row);
            let mut node = Node {
                id: NodeId(cells.first + at),
                stage: stage.decl.name.clone(),
                kind: kind.decl().name.to_owned(),
                axes: axes
                    .map(|(axis, index)| (axis.name.clone(), axis.values[*index as usize].clone()))
                    .collect(),
                arm: String::new(),
                params,
                inputs,
                outputs,
                files,
                execution: stage.decl.execution.clone(),
                place: stage.decl.span.into(),
                places: places.clone(),
            };
            node.arm = self.arm(stage, &scope, &node, findings);
            self.expanded.nodes.push(node);
            self.expanded.own.push(own);
        }
    }

    /// See [`Node::arm`].
    fn arm(
        &self,
        stage: &Stage<'_>,
        scope: &Scope<'_>,
        node: &Node,
        findings: &mut Findings,
    ) -> String {
        if let Some(form) = &stage.arm {
            return match scope.value(form) {
                Ok(value) => plain(&value),
                Err(problem) => {
                    findings.push(*problem);
                    String::new()
                }
            };
        }
        let trains = node
            .outputs
            .iter()
            .any(|output| output.artifact == ArtifactType::Model);
        let measures = node
            .outputs
            .first()
            .is_some_and(|output| output.artifact.holds_results());
        if measures
            && !trains
            && let Some(model) = self.model_of(node)
        {
            return model.arm.clone();
        }
        let own = stage
            .decl
            .matrix
            .axes
            .iter()
            .filter_map(|axis| node.axes.get(&axis.name));
        let values: Vec<String> = own.map(plain).collect();
        if values.is_empty() {
            node.stage.clone()
        } else {
            format!("{}/{}", node.stage, values.join(","))
        }
    }

    /// The stage whose model a node reads.
    fn model_of(&self, node: &Node) -> Option<&Node> {
        let source = |reference: &Reference| self.expanded.nodes.get(reference.node.0);
        let is_model = |reference: &&Reference| {
            let outputs = source(reference).map_or(&[][..], |source| &source.outputs);
            outputs.iter().any(|output| {
                output.name == reference.output && output.artifact == ArtifactType::Model
            })
        };
        source(
            node.inputs
                .iter()
                .flat_map(|(_, references)| references)
                .find(is_model)?,
        )
    }
}

//! References: from what is written to the nodes that are meant.

use std::collections::HashMap;

use super::cells::Cells;
use super::compile::{Ref, Stage};
use super::pin::{Role, role};
use super::relation::Relation;
use super::scope::Scope;
use super::template::Template;
use crate::diagnostic::{Diagnostic, Findings, did_you_mean, quoted_list};
use crate::stage::{ArtifactType, InputDecl, OutputDecl};
use crate::study::{NodeId, Reference};

/// References by input name.
type Inputs = Vec<(String, Vec<Reference>)>;

/// Finds the nodes that a stage's references mean.
pub(crate) struct Linker<'a> {
    inputs: Vec<(&'a str, &'static InputDecl, Vec<Link<'a>>)>,
    stages: &'a [Stage<'a>],
}

struct Link<'a> {
    reference: &'a Ref,
    cells: &'a Cells,
    /// How to find the value of each axis that is not gathered, in the order of the target's axes.
    key: Vec<Part<'a>>,
    /// Rows of the target by the values of those axes.
    rows: HashMap<Vec<u32>, Vec<usize>>,
    gathers: bool,
    output: Option<&'a Template>,
}

/// Where the value of one axis comes from.
enum Part<'a> {
    /// The value at this position of the referring row.
    Own(usize),
    /// The value with this text, of the axis at this position of the target.
    Pin(&'a Template, usize),
}

impl<'a> Linker<'a> {
    /// A linker for `stage`, whose cells are `relation`.
    pub(crate) fn new(
        stage: &'a Stage<'_>,
        relation: &Relation,
        stages: &'a [Stage<'a>],
        cells: &'a [Option<Cells>],
    ) -> Self {
        let link = |reference: &'a Ref| {
            let cells = cells[reference.target].as_ref()?;
            let target = &cells.relation;
            let mut key = Vec::new();
            let mut kept = Vec::new();
            for (at, axis) in target.axes.iter().enumerate() {
                key.push(match role(reference, target, at) {
                    Role::Free => Part::Own(relation.position(&axis.name)?),
                    Role::Pinned(value) => Part::Pin(value, at),
                    Role::Gathered => continue,
                });
                kept.push(at);
            }
            let mut rows: HashMap<Vec<u32>, Vec<usize>> = HashMap::new();
            for (index, row) in target.rows.iter().enumerate() {
                rows.entry(kept.iter().map(|&at| row[at]).collect())
                    .or_default()
                    .push(index);
            }
            let gathers = reference.expr.all || kept.len() < target.axes.len();
            Some(Link {
                reference,
                cells,
                key,
                rows,
                gathers,
                output: reference.expr.output.as_ref(),
            })
        };
        let inputs = stage
            .inputs
            .iter()
            .map(|input| {
                let links = input.refs.iter().filter_map(link).collect();
                (input.name.as_str(), input.decl, links)
            })
            .collect();
        Self { inputs, stages }
    }

    /// The inputs of one cell, and the nodes among them that are not gathered.
    pub(crate) fn inputs(
        &self,
        scope: &Scope<'_>,
        findings: &mut Findings,
    ) -> (Inputs, Vec<NodeId>) {
        let mut own = Vec::new();
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (name, input, links) in &self.inputs {
            let mut references = Vec::new();
            for link in links {
                let found = self.rows(link, scope).and_then(|rows| {
                    rows.iter()
                        .map(|&row| self.reference(input, link, row, scope))
                        .collect::<Result<Vec<_>, _>>()
                });
                match found {
                    Ok(found) => {
                        let found: Vec<Reference> = found.into_iter().flatten().collect();
                        if !link.gathers {
                            own.extend(found.iter().map(|reference| reference.node));
                        }
                        references.extend(found);
                    }
                    Err(problem) => findings.push(*problem),
                }
            }
            inputs.push(((*name).to_owned(), references));
        }
        (inputs, own)
    }

    /// The rows of the target that a reference means in one cell.
    fn rows<'l>(
        &self,
        link: &'l Link<'_>,
        scope: &Scope<'_>,
    ) -> Result<&'l [usize], Box<Diagnostic>> {
        let mut key = Vec::with_capacity(link.key.len());
        for part in &link.key {
            key.push(match part {
                Part::Own(at) => scope.row[*at],
                Part::Pin(value, at) => {
                    let text = scope.text(value)?;
                    let axis = &link.cells.relation.axes[*at];
                    axis.position_of_text(&text).ok_or_else(|| {
                        let stage = &self.stages[link.reference.target].decl.name;
                        let message = format!(
                            "the axis `{}` of `{stage}` has no value `{text}`",
                            axis.name
                        );
                        let problem = Diagnostic::error(link.reference.span, message);
                        Box::new(problem.note(format!("it has {}", axis.list())))
                    })?
                }
            });
        }
        link.rows.get(&key).map(Vec::as_slice).ok_or_else(|| {
            let target = &self.stages[link.reference.target].decl.name;
            let kept = link.key.iter().zip(&key).map(|(part, index)| match part {
                Part::Own(at) => (&scope.axes[*at], *index),
                Part::Pin(_, at) => (&link.cells.relation.axes[*at], *index),
            });
            let values: Vec<String> = kept
                .map(|(axis, index)| {
                    format!(
                        "{}={}",
                        axis.name,
                        crate::text::plain(&axis.values[index as usize])
                    )
                })
                .collect();
            let message = format!(
                "`{target}[{}]` is left out by an `exclude`",
                values.join(",")
            );
            Box::new(Diagnostic::error(link.reference.span, message))
        })
    }

    /// The output of one row; none if the row's params are wrong, which has been reported.
    fn reference(
        &self,
        input: &InputDecl,
        link: &Link<'_>,
        row: usize,
        scope: &Scope<'_>,
    ) -> Result<Option<Reference>, Box<Diagnostic>> {
        let Some(params) = &link.cells.params[row] else {
            return Ok(None);
        };
        let stage = &self.stages[link.reference.target].decl.name;
        let output = match link.output {
            None => params.outputs.first(),
            Some(template) => {
                let name = scope.text(template)?;
                let found = params.outputs.iter().find(|output| output.name == name);
                Some(found.ok_or_else(|| unknown_output(link, stage, &name, &params.outputs))?)
            }
        };
        let Some(output) = output else {
            return Ok(None);
        };
        if !input.accepts.contains(&output.artifact) {
            return Err(misfit(input, link, stage, output, &params.outputs));
        }
        Ok(Some(Reference {
            node: NodeId(link.cells.first + row),
            output: output.name.clone(),
        }))
    }
}

fn unknown_output(
    link: &Link<'_>,
    stage: &str,
    name: &str,
    outputs: &[OutputDecl],
) -> Box<Diagnostic> {
    let names = || outputs.iter().map(|output| output.name.as_str());
    let problem = Diagnostic::error(
        link.reference.span,
        format!("the stage `{stage}` has no output `{name}`"),
    )
    .note(format!("it has {}", quoted_list(names())))
    .maybe_help(did_you_mean(name, names()));
    Box::new(problem)
}

fn misfit(
    input: &InputDecl,
    link: &Link<'_>,
    stage: &str,
    output: &OutputDecl,
    outputs: &[OutputDecl],
) -> Box<Diagnostic> {
    let wants: Vec<String> = input
        .accepts
        .iter()
        .map(|artifact| words(*artifact))
        .collect();
    let message = format!(
        "`{}` takes {}, and `{}` of `{stage}` is {}",
        input.name,
        wants.join(" or "),
        output.name,
        words(output.artifact)
    );
    let fitting = outputs
        .iter()
        .filter(|output| input.accepts.contains(&output.artifact));
    let fitting: Vec<&str> = fitting.map(|output| output.name.as_str()).collect();
    let problem = Diagnostic::error(link.reference.span, message);
    Box::new(if fitting.is_empty() {
        problem
    } else {
        problem.help(format!(
            "outputs of `{stage}` that fit: {}",
            quoted_list(fitting)
        ))
    })
}

/// An artifact type with its article.
fn words(artifact: ArtifactType) -> String {
    match artifact {
        ArtifactType::Dataset => "a dataset",
        ArtifactType::Model => "a model",
        ArtifactType::Rollouts => "rollouts",
        ArtifactType::Difficulty => "a difficulty table",
        ArtifactType::TrainingLog => "a training log",
        ArtifactType::TrainerState => "a trainer's state",
        ArtifactType::Completions => "drawn answers",
        ArtifactType::Evaluation => "an evaluation",
        ArtifactType::Report => "a report",
        ArtifactType::Metrics => "metrics",
        ArtifactType::Files => "files",
    }
    .to_owned()
}

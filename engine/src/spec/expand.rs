//! From stages to nodes: the cells of each stage, their params, and whom they read.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::axis::{Axis, Matrix, Owner};
use super::compile::Stage;
use super::link::Linker;
use super::params::{Checker, Problem};
use super::place;
use super::relation::{MAX_CELLS, Relation, TooMany};
use super::scope::{Reads, Scope, Vars};
use super::template::{Expr, Form, Selector};
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, quoted_list};
use crate::kind::{ArtifactType, Kind, ResolvedParams};
use crate::study::{Node, NodeId, Place, Reference, plain};

/// The cells of a stage and what became of them.
pub(crate) struct Cells {
    /// Axes and combinations; the node of row `i` is `first + i`.
    pub(crate) relation: Relation,
    /// The node of the first row.
    pub(crate) first: usize,
    /// Params by row; none where they are wrong.
    pub(crate) params: Vec<Option<Rc<ResolvedParams>>>,
}

/// Turns stages into nodes, one stage after the other.
pub(crate) struct Expander<'a> {
    stages: &'a [Stage<'a>],
    vars: &'a Vars<'a>,
    top: &'a Matrix,
    checker: Checker,
    /// By stage; none where the axes are not known.
    cells: Vec<Option<Cells>>,
    /// Axes of the experiment that a stage has.
    used: HashSet<String>,
    exists: HashMap<PathBuf, bool>,
    nodes: Vec<Node>,
    /// By node: those it reads one by one, not gathered.
    own: Vec<Vec<NodeId>>,
}

/// What the expansion gives.
pub(crate) struct Expanded {
    /// The nodes.
    pub(crate) nodes: Vec<Node>,
    /// By node: those it reads one by one, not gathered.
    pub(crate) own: Vec<Vec<NodeId>>,
}

impl<'a> Expander<'a> {
    /// An expander for `stages`; relative paths are relative to `root`.
    pub(crate) fn new(
        stages: &'a [Stage<'a>],
        vars: &'a Vars<'a>,
        top: &'a Matrix,
        root: PathBuf,
    ) -> Self {
        Self {
            stages,
            vars,
            top,
            checker: Checker::new(root),
            cells: stages.iter().map(|_| None).collect(),
            used: HashSet::new(),
            exists: HashMap::new(),
            nodes: Vec::new(),
            own: Vec::new(),
        }
    }

    /// Expands the stages in `order`.
    pub(crate) fn run(mut self, order: &[usize], findings: &mut Findings) -> Expanded {
        for &index in order {
            self.stage(index, findings);
        }
        let complete = findings.errors() == 0;
        for axis in &self.top.axes {
            if complete && !self.used.contains(&axis.name) {
                let message = format!("no stage uses the axis `{}`", axis.name);
                let help = format!("use it as `${{matrix.{}}}`, or remove it", axis.name);
                findings.push(Diagnostic::warning(axis.span, message).help(help));
            }
        }
        Expanded {
            nodes: self.nodes,
            own: self.own,
        }
    }

    fn stage(&mut self, index: usize, findings: &mut Findings) {
        let stage = &self.stages[index];
        let reads = self.reads(stage);
        let before = findings.errors();
        let relation = self.relation(index, &reads, findings);
        let Some(kind) = stage.kind else { return };
        let known = relation.is_some() && findings.errors() == before;
        let relation = relation
            .filter(|_| known)
            .unwrap_or_else(|| self.one_cell(stage));
        let params = self.params(stage, kind, &relation, findings);
        if !known || stage.broken {
            return;
        }
        let cells = Cells {
            relation,
            first: self.nodes.len(),
            params,
        };
        self.link(stage, kind, &cells, findings);
        self.cells[index] = Some(cells);
    }

    /// All axes that the stage reads.
    fn reads(&self, stage: &Stage<'_>) -> Reads {
        let mut reads = Reads::default();
        let forms = stage.params.iter().map(|(_, form)| form).chain(&stage.arm);
        forms
            .for_each(|form| form.templates(&mut |template| self.vars.reads(template, &mut reads)));
        for reference in stage.inputs.iter().flat_map(|input| &input.refs) {
            let pins =
                reference
                    .expr
                    .selectors
                    .iter()
                    .filter_map(|(_, selector, _)| match selector {
                        Selector::Pin(value) => Some(value),
                        Selector::All => None,
                    });
            pins.chain(&reference.expr.output)
                .for_each(|template| self.vars.reads(template, &mut reads));
        }
        reads
    }

    /// The stage's cells; none if they cannot be known.
    fn relation(
        &mut self,
        index: usize,
        reads: &Reads,
        findings: &mut Findings,
    ) -> Option<Relation> {
        let stage = &self.stages[index];
        let matrix = &stage.decl.matrix;
        let mut sources = Vec::new();
        let mut complete = !stage.broken;
        for reference in stage.inputs.iter().flat_map(|input| &input.refs) {
            let Some(cells) = &self.cells[reference.target] else {
                complete = false;
                continue;
            };
            match super::link::kept(reference, &cells.relation, self.stages, findings) {
                Some(relation) => sources.push(relation),
                None => complete = false,
            }
        }
        let inherited = |name: &str| {
            sources
                .iter()
                .flat_map(|relation| &relation.axes)
                .any(|axis| axis.name == name)
        };
        for axis in &matrix.axes {
            if complete && !reads.axes.contains_key(&axis.name) && !inherited(&axis.name) {
                let message = format!(
                    "nothing in the stage `{}` uses its axis `{}`",
                    stage.decl.name, axis.name
                );
                let help = format!("use it as `${{matrix.{}}}`, or remove it", axis.name);
                findings.push(Diagnostic::error(axis.span, message).help(help));
            }
        }
        let mut from_top = Vec::new();
        for (name, span) in &reads.axes {
            if matrix.axis(name).is_some() || inherited(name) {
                continue;
            }
            match self.top.axis(name) {
                Some(axis) => from_top.push(axis.clone()),
                None if complete || !self.is_axis(name) => {
                    findings.push(self.unknown_axis(stage, name, *span, &sources));
                }
                None => {}
            }
        }
        self.used.extend(reads.axes.keys().cloned());
        if !complete {
            return None;
        }
        for axis in sources
            .iter()
            .flat_map(|relation| &relation.axes)
            .filter(|axis| axis.owner == Owner::Top)
        {
            if !from_top.iter().any(|known| known.name == axis.name) {
                from_top.push(axis.clone());
            }
        }
        sources.extend(
            Relation::of(matrix, matrix.axes.clone())
                .map_err(|TooMany| too_many(stage, findings))
                .ok(),
        );
        sources.extend(
            Relation::of(self.top, from_top)
                .map_err(|TooMany| too_many(stage, findings))
                .ok(),
        );
        if !agree(stage, &sources, findings) {
            return None;
        }
        let joined = sources
            .iter()
            .try_fold(Relation::unit(), |joined, source| joined.join(source));
        let mut joined = joined.map_err(|TooMany| too_many(stage, findings)).ok()?;
        check_rules(matrix, &joined.axes, findings);
        leave_out(matrix, &mut joined);
        joined.sort(|axis| rank(axis, self.top, self.stages));
        if joined.rows.is_empty() {
            let message = format!(
                "no combination of axis values is left for the stage `{}`",
                stage.decl.name
            );
            findings.push(
                Diagnostic::error(stage.decl.span, message)
                    .help("look at `exclude` and at pinned values"),
            );
            return None;
        }
        Some(joined)
    }

    /// Whether any stage has an axis of its own called `name`.
    fn is_axis(&self, name: &str) -> bool {
        self.stages
            .iter()
            .any(|stage| stage.decl.matrix.axis(name).is_some())
    }

    fn unknown_axis(
        &self,
        stage: &Stage<'_>,
        name: &str,
        span: Span,
        sources: &[Relation],
    ) -> Diagnostic {
        let mut known: Vec<&str> = stage
            .decl
            .matrix
            .axes
            .iter()
            .map(|axis| axis.name.as_str())
            .collect();
        known.extend(
            sources
                .iter()
                .flat_map(|relation| &relation.axes)
                .map(|axis| axis.name.as_str()),
        );
        known.extend(self.top.axes.iter().map(|axis| axis.name.as_str()));
        let mut seen = HashSet::new();
        known.retain(|name| seen.insert(*name));
        let message = format!("the stage `{}` has no axis `{name}`", stage.decl.name);
        let problem = Diagnostic::error(span, message);
        let problem = if known.is_empty() {
            problem.note("it has no axes")
        } else {
            problem.note(format!("it has {}", quoted_list(known.iter().copied())))
        };
        let elsewhere = self
            .stages
            .iter()
            .find(|other| other.decl.matrix.axis(name).is_some());
        match elsewhere {
            Some(other) => problem.help(format!(
                "`{name}` is an axis of `{}`: refer to that stage, or declare the axis here",
                other.decl.name
            )),
            None => problem.maybe_help(did_you_mean(name, known)),
        }
    }

    /// A stand-in for the cells of a stage whose axes are not known: the first value of each axis that is.
    fn one_cell(&self, stage: &Stage<'_>) -> Relation {
        let own = stage.decl.matrix.axes.iter();
        let top = self
            .top
            .axes
            .iter()
            .filter(|axis| stage.decl.matrix.axis(&axis.name).is_none());
        let axes: Vec<Rc<Axis>> = own
            .chain(top)
            .filter(|axis| !axis.values.is_empty())
            .cloned()
            .collect();
        let rows = vec![vec![0; axes.len()]];
        Relation { axes, rows }
    }

    /// Checks the params of every row, once for each combination of the axes they read.
    fn params(
        &mut self,
        stage: &Stage<'_>,
        kind: &dyn Kind,
        relation: &Relation,
        findings: &mut Findings,
    ) -> Vec<Option<Rc<ResolvedParams>>> {
        let mut all_reads = Reads::default();
        let mut fields = Vec::with_capacity(stage.params.len());
        for (key, form) in &stage.params {
            let mut reads = Reads::default();
            form.templates(&mut |template| self.vars.reads(template, &mut reads));
            // An axis that is not here has been reported, or hangs on something that has.
            let known = form.has_value()
                && reads
                    .axes
                    .keys()
                    .all(|name| relation.position(name).is_some());
            fields.push((key.as_str(), known.then_some(form)));
            all_reads.axes.append(&mut reads.axes);
        }
        let positions: Vec<usize> = all_reads
            .axes
            .keys()
            .filter_map(|name| relation.position(name))
            .collect();
        let mut seen: HashMap<Vec<u32>, Option<Rc<ResolvedParams>>> = HashMap::new();
        let mut all = Vec::with_capacity(relation.rows.len());
        for row in &relation.rows {
            let key: Vec<u32> = positions.iter().map(|&at| row[at]).collect();
            if !seen.contains_key(&key) {
                let scope = Scope {
                    vars: self.vars,
                    axes: &relation.axes,
                    row,
                };
                seen.insert(
                    key.clone(),
                    self.params_of(stage, kind, &fields, &scope, findings),
                );
            }
            all.push(seen[&key].clone());
        }
        all
    }

    /// The params in one combination; `fields` without a form are not known.
    fn params_of(
        &mut self,
        stage: &Stage<'_>,
        kind: &dyn Kind,
        fields: &[(&str, Option<&Form>)],
        scope: &Scope<'_>,
        findings: &mut Findings,
    ) -> Option<Rc<ResolvedParams>> {
        let mut with = Map::new();
        let mut holes = Vec::new();
        for (key, form) in fields {
            let value = form.and_then(|form| {
                scope
                    .value(form)
                    .map_err(|problem| findings.push(*problem))
                    .ok()
            });
            match value {
                Some(value) => drop(with.insert((*key).to_owned(), value)),
                None => holes.push(*key),
            }
        }
        let with = Value::Object(with);
        if !holes.is_empty() {
            let problems = self.checker.problems(kind, &with);
            let known = problems
                .iter()
                .filter(|problem| !holes.iter().any(|hole| problem.is_lack_of(hole)));
            known.for_each(|problem| self.report(stage, scope, problem, findings));
            return None;
        }
        match self.checker.resolve(kind, &with) {
            Ok(resolved) => {
                self.missing_files(stage, &resolved, findings);
                Some(resolved)
            }
            Err(problems) => {
                problems
                    .iter()
                    .for_each(|problem| self.report(stage, scope, problem, findings));
                None
            }
        }
    }

    fn report(
        &self,
        stage: &Stage<'_>,
        scope: &Scope<'_>,
        problem: &Problem,
        findings: &mut Findings,
    ) {
        let (key, value) = place::nearest(stage.decl.with, &problem.path, stage.decl.span);
        let mut span = if problem.on_key { key } else { value };
        let mut origin = None;
        if !problem.on_key
            && let Some(Form::Text(template)) = form_at(stage, &problem.path)
        {
            match template.whole() {
                Some(Expr::Axis(name)) => {
                    let found = scope
                        .axes
                        .iter()
                        .zip(scope.row)
                        .find(|(axis, _)| axis.name == *name);
                    origin = found
                        .and_then(|(axis, index)| axis.spans.get(*index as usize))
                        .copied();
                }
                Some(Expr::Var(path)) => {
                    origin = scope.text(path).ok().and_then(|path| self.vars.span(&path));
                }
                _ => {}
            }
        }
        let mut used = None;
        if let Some(origin) = origin {
            used = Some(std::mem::replace(&mut span, origin));
        }
        let mut diagnostic =
            Diagnostic::error(span, problem.message.clone()).maybe_help(problem.help.clone());
        if let Some(used) = used {
            diagnostic = diagnostic.also(used, "used here");
        }
        if let Some(note) = &problem.note {
            diagnostic = diagnostic.note(note.clone());
        }
        findings.push(diagnostic);
    }

    fn missing_files(
        &mut self,
        stage: &Stage<'_>,
        resolved: &ResolvedParams,
        findings: &mut Findings,
    ) {
        for param in resolved.files.iter().filter(|param| param.required) {
            for (_, path) in &param.files {
                let exists = *self
                    .exists
                    .entry(path.clone())
                    .or_insert_with(|| path.exists());
                if !exists {
                    let field: Vec<String> = param.field.split('.').map(str::to_owned).collect();
                    let (_, span) = place::nearest(stage.decl.with, &field, stage.decl.span);
                    let message = format!("there is no file or folder {}", path.display());
                    findings.push(
                        Diagnostic::error(span, message)
                            .help("paths are relative to the spec's folder"),
                    );
                }
            }
        }
    }

    /// Makes the nodes of a stage whose cells are known.
    fn link(&mut self, stage: &Stage<'_>, kind: &dyn Kind, cells: &Cells, findings: &mut Findings) {
        let linker = Linker::new(stage, &cells.relation, self.stages, &self.cells);
        let places = Arc::new(self.places(stage));
        for (at, row) in cells.relation.rows.iter().enumerate() {
            let scope = Scope {
                vars: self.vars,
                axes: &cells.relation.axes,
                row,
            };
            let (inputs, own) = linker.inputs(&scope, findings);
            let resolved = cells.params[at].as_deref();
            let (params, outputs, files) = resolved.map_or_else(Default::default, |resolved| {
                (
                    resolved.value.clone(),
                    resolved.outputs.clone(),
                    resolved.files.clone(),
                )
            });
            let axes = cells.relation.axes.iter().zip(row);
            let mut node = Node {
                id: NodeId(cells.first + at),
                stage: stage.decl.name.clone(),
                kind: kind.name().to_owned(),
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
            self.nodes.push(node);
            self.own.push(own);
        }
    }

    /// Where each field stands; for a field that is one var, where the var stands.
    fn places(&self, stage: &Stage<'_>) -> std::collections::BTreeMap<String, Place> {
        let mut places = place::all(stage.decl.with);
        let nowhere = Scope {
            vars: self.vars,
            axes: &[],
            row: &[],
        };
        for (path, place) in &mut places {
            let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
            if let Some(Form::Text(template)) = form_at(stage, &parts)
                && let Some(Expr::Var(var)) = template.whole()
                && let Some(span) = nowhere
                    .text(var)
                    .ok()
                    .and_then(|path| self.vars.span(&path))
            {
                *place = span.into();
            }
        }
        places
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
        if node
            .outputs
            .first()
            .is_some_and(|output| output.artifact == ArtifactType::Evaluation)
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
        let is_model = |reference: &&Reference| {
            let source = self.nodes.get(reference.node.0);
            let output = source.and_then(|source| {
                source
                    .outputs
                    .iter()
                    .find(|output| output.name == reference.output)
            });
            output.is_some_and(|output| output.artifact == ArtifactType::Model)
        };
        let reference = node
            .inputs
            .iter()
            .flat_map(|(_, references)| references)
            .find(is_model)?;
        self.nodes.get(reference.node.0)
    }
}

/// The form of the field at `path`.
fn form_at<'a>(stage: &'a Stage<'_>, path: &[String]) -> Option<&'a Form> {
    let (first, rest) = path.split_first()?;
    let (_, form) = stage.params.iter().find(|(key, _)| key == first)?;
    form.at(rest.iter().map(String::as_str))
}

/// Axes of the experiment first, then those of stages in the order of the spec.
fn rank(axis: &Axis, top: &Matrix, stages: &[Stage<'_>]) -> (Owner, usize) {
    let matrix = match axis.owner {
        Owner::Top => top,
        Owner::Stage(index) => &stages[index].decl.matrix,
    };
    (
        axis.owner,
        matrix
            .axes
            .iter()
            .position(|other| other.name == axis.name)
            .unwrap_or(usize::MAX),
    )
}

fn too_many(stage: &Stage<'_>, findings: &mut Findings) {
    let message = format!(
        "the stage `{}` would have more than {MAX_CELLS} combinations",
        stage.decl.name
    );
    findings.push(
        Diagnostic::error(stage.decl.span, message)
            .help("shorten an axis, or leave combinations out"),
    );
}

/// Whether axes of the same name have the same values wherever they come from.
fn agree(stage: &Stage<'_>, sources: &[Relation], findings: &mut Findings) -> bool {
    let mut seen: HashMap<&str, &Rc<Axis>> = HashMap::new();
    let mut agree = true;
    for axis in sources.iter().flat_map(|relation| &relation.axes) {
        let first = *seen.entry(&axis.name).or_insert(axis);
        if first.values == axis.values {
            continue;
        }
        agree = false;
        let message = format!(
            "the stage `{}` gets two different axes called `{}`",
            stage.decl.name, axis.name
        );
        let (one, other) = if first.span < axis.span {
            (first, axis)
        } else {
            (axis, first)
        };
        let problem = Diagnostic::error(stage.decl.span, message)
            .also(one.span, format!("with {}", one.list()))
            .also(other.span, format!("with {}", other.list()))
            .help("rename one of them, or pin or gather it in the reference");
        findings.push(problem);
    }
    agree
}

/// Reports exclusions that name what is no axis or no value.
fn check_rules(matrix: &Matrix, axes: &[Rc<Axis>], findings: &mut Findings) {
    for rule in &matrix.exclude {
        for (name, values, span) in &rule.entries {
            let Some(axis) = axes.iter().find(|axis| axis.name == *name) else {
                let names = || axes.iter().map(|axis| axis.name.as_str());
                let problem = Diagnostic::error(*span, format!("there is no axis `{name}` here"))
                    .note(format!("there are {}", quoted_list(names())))
                    .maybe_help(did_you_mean(name, names()));
                findings.push(problem);
                continue;
            };
            for value in values.iter().filter(|value| axis.position(value).is_none()) {
                let message = format!("the axis `{name}` has no value `{}`", plain(value));
                findings.push(
                    Diagnostic::error(*span, message).note(format!("it has {}", axis.list())),
                );
            }
        }
    }
}

/// Applies a stage's exclusions; what its matrix includes stays.
fn leave_out(matrix: &Matrix, joined: &mut Relation) {
    let positions: Vec<usize> = matrix
        .axes
        .iter()
        .filter_map(|axis| joined.position(&axis.name))
        .collect();
    let own = Relation {
        axes: matrix.axes.clone(),
        rows: Vec::new(),
    };
    let keep: HashSet<Vec<u32>> = own.included(matrix).into_iter().collect();
    joined.exclude(&matrix.exclude, &keep, &positions);
}

/// Reports mistakes in the experiment's own exclusions.
pub(crate) fn check_top(matrix: &Matrix, findings: &mut Findings) {
    check_rules(matrix, &matrix.axes, findings);
}

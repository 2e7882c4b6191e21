//! Which axes a stage has, and in which combinations of their values it exists.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::axis::{Axis, Matrix, Owner};
use super::compile::{Ref, Stage};
use super::params::Resolved;
use super::pin::kept;
use super::relation::{MAX_CELLS, Relation, TooMany};
use super::scope::Reads;
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, quoted_list};
use crate::text::plain;

/// The cells of a stage and what became of them.
pub(crate) struct Cells {
    /// Axes and combinations; the node of row `i` is `first + i`.
    pub(crate) relation: Relation,
    /// The node of the first row.
    pub(crate) first: usize,
    /// Params by row; none where they are wrong.
    pub(crate) params: Vec<Option<Arc<Resolved>>>,
}

/// What axes depend on.
pub(crate) struct Surroundings<'a> {
    /// All stages.
    pub(crate) stages: &'a [Stage<'a>],
    /// The experiment's matrix.
    pub(crate) top: &'a Matrix,
}

impl Surroundings<'_> {
    /// The cells of `stage`, which reads the axes `reads`; `of` gives the cells of a stage it refers to. None if
    /// they cannot be known, which has been reported here or is the consequence of something that has.
    pub(crate) fn cells<'c>(
        &self,
        stage: &Stage<'_>,
        reads: &Reads,
        of: impl Fn(&Ref) -> Option<&'c Relation>,
        findings: &mut Findings,
    ) -> Option<Relation> {
        let matrix = &stage.decl.matrix;
        let mut sources = Vec::new();
        let mut complete = !stage.broken;
        for reference in stage.inputs.iter().flat_map(|input| &input.refs) {
            match of(reference).and_then(|target| kept(reference, target, self.stages, findings)) {
                Some(relation) => sources.push(relation),
                None => complete = false,
            }
        }
        if complete {
            refuse_unused(stage, reads, &sources, findings);
        }
        let from_top = self.top_axes(stage, reads, &sources, complete, findings);
        let mut axes = sources
            .iter()
            .flat_map(|relation| &relation.axes)
            .chain(&matrix.axes)
            .chain(&from_top);
        if !complete || axes.any(|axis| axis.values.is_empty()) {
            return None;
        }
        let all_axes: Vec<Rc<Axis>> = {
            let mut seen = HashSet::new();
            let inherited = sources.iter().flat_map(|relation| &relation.axes);
            let axes = inherited.chain(&matrix.axes).chain(&from_top);
            axes.filter(|axis| seen.insert(axis.name.clone()))
                .cloned()
                .collect()
        };
        let mut own = || -> Result<(), TooMany> {
            sources.push(Relation::of(matrix, matrix.axes.clone())?);
            sources.push(Relation::of(self.top, from_top.clone())?);
            Ok(())
        };
        own()
            .map_err(|TooMany| too_many(stage, &all_axes, findings))
            .ok()?;
        if !agree(stage, &sources, findings) {
            return None;
        }
        let joined = sources
            .iter()
            .try_fold(Relation::unit(), |joined, source| joined.join(source));
        let mut joined = joined
            .map_err(|TooMany| too_many(stage, &all_axes, findings))
            .ok()?;
        check_rules(matrix, &joined.axes, findings);
        leave_out(matrix, &mut joined);
        joined.sort(|axis| self.rank(axis));
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

    /// A stand-in for the cells of a stage that are not known: the first value of each axis that is.
    pub(crate) fn one_cell(&self, stage: &Stage<'_>) -> Relation {
        let own = &stage.decl.matrix;
        let top = self
            .top
            .axes
            .iter()
            .filter(|axis| own.axis(&axis.name).is_none());
        let axes: Vec<Rc<Axis>> = own
            .axes
            .iter()
            .chain(top)
            .filter(|axis| !axis.values.is_empty())
            .cloned()
            .collect();
        let rows = vec![vec![0; axes.len()]];
        Relation { axes, rows }
    }

    /// Axes of the experiment that a stage has: those it reads, and those that come with its references. Reports
    /// axes that are none.
    fn top_axes(
        &self,
        stage: &Stage<'_>,
        reads: &Reads,
        sources: &[Relation],
        complete: bool,
        findings: &mut Findings,
    ) -> Vec<Rc<Axis>> {
        let inherited = || sources.iter().flat_map(|relation| &relation.axes);
        let mut from_top: Vec<Rc<Axis>> = Vec::new();
        for (name, span) in &reads.axes {
            if stage.decl.matrix.axis(name).is_some() || inherited().any(|axis| axis.name == *name)
            {
                continue;
            }
            match self.top.axis(name) {
                Some(axis) => from_top.push(axis.clone()),
                // It might have come with a reference that is broken, if it is an axis at all.
                None if complete || self.declaring(name).is_none() => {
                    findings.push(self.unknown_axis(stage, name, *span, sources));
                }
                None => {}
            }
        }
        for axis in inherited().filter(|axis| axis.owner == Owner::Top) {
            if !from_top.iter().any(|known| known.name == axis.name) {
                from_top.push(axis.clone());
            }
        }
        from_top
    }

    /// The first stage that declares an axis called `name`.
    fn declaring(&self, name: &str) -> Option<&Stage<'_>> {
        self.stages
            .iter()
            .find(|stage| stage.decl.matrix.axis(name).is_some())
    }

    fn unknown_axis(
        &self,
        stage: &Stage<'_>,
        name: &str,
        span: Span,
        sources: &[Relation],
    ) -> Diagnostic {
        let own = &stage.decl.matrix.axes;
        let inherited = sources.iter().flat_map(|relation| &relation.axes);
        let mut seen = HashSet::new();
        let known = own
            .iter()
            .chain(inherited)
            .chain(&self.top.axes)
            .map(|axis| axis.name.as_str());
        let known: Vec<&str> = known.filter(|name| seen.insert(*name)).collect();
        let problem = Diagnostic::error(
            span,
            format!("the stage `{}` has no axis `{name}`", stage.decl.name),
        );
        let problem = match known.len() {
            0 => problem.note("it has no axes"),
            _ => problem.note(format!("it has {}", quoted_list(known.iter().copied()))),
        };
        match self.declaring(name) {
            Some(other) => problem.help(format!(
                "`{name}` is an axis of `{}`: refer to that stage, or declare the axis here",
                other.decl.name
            )),
            None => problem.maybe_help(did_you_mean(name, known)),
        }
    }

    /// Axes of the experiment first, then those of stages in the order of the spec.
    fn rank(&self, axis: &Axis) -> (Owner, usize) {
        let matrix = match axis.owner {
            Owner::Top => self.top,
            Owner::Stage(index) => &self.stages[index].decl.matrix,
        };
        let position = matrix.axes.iter().position(|other| other.name == axis.name);
        (axis.owner, position.unwrap_or(usize::MAX))
    }
}

/// Reports exclusions that name what is no axis or no value.
pub(crate) fn check_rules(matrix: &Matrix, axes: &[Rc<Axis>], findings: &mut Findings) {
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

/// Reports axes of a stage that nothing in it uses: every value would do the same work under another name.
fn refuse_unused(stage: &Stage<'_>, reads: &Reads, sources: &[Relation], findings: &mut Findings) {
    for axis in &stage.decl.matrix.axes {
        let inherited = sources
            .iter()
            .any(|relation| relation.position(&axis.name).is_some());
        if !inherited && !reads.axes.contains_key(&axis.name) {
            let message = format!(
                "nothing in the stage `{}` uses its axis `{}`",
                stage.decl.name, axis.name
            );
            let help = format!("use it as `${{matrix.{}}}`, or remove it", axis.name);
            findings.push(Diagnostic::error(axis.span, message).help(help));
        }
    }
}

/// Whether axes of the same name have the same values wherever they come from.
fn agree(stage: &Stage<'_>, sources: &[Relation], findings: &mut Findings) -> bool {
    let mut seen: HashMap<&str, &Rc<Axis>> = HashMap::new();
    let mut agree = true;
    for axis in sources.iter().flat_map(|relation| &relation.axes) {
        let first = *seen.entry(&axis.name).or_insert(axis);
        if Rc::ptr_eq(first, axis) || first.values == axis.values {
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

/// Applies a stage's exclusions; what its matrix includes stays.
fn leave_out(matrix: &Matrix, joined: &mut Relation) {
    if matrix.exclude.is_empty() {
        return;
    }
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

fn too_many(stage: &Stage<'_>, axes: &[Rc<Axis>], findings: &mut Findings) {
    let message = format!(
        "the stage `{}` would have more than {MAX_CELLS} combinations",
        stage.decl.name
    );
    findings.push(
        Diagnostic::error(stage.decl.span, message)
            .note(lengths(axes))
            .help("shorten an axis"),
    );
}

/// How many values axes have.
pub(crate) fn lengths(axes: &[Rc<Axis>]) -> String {
    let length = |axis: &Rc<Axis>| format!("`{}` has {}", axis.name, axis.values.len());
    let lengths: Vec<String> = axes.iter().map(length).collect();
    format!("values of its axes: {}", lengths.join(", "))
}

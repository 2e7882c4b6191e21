//! The brackets of a reference: which cells of its target they leave.

use super::compile::{Ref, Stage};
use super::relation::Relation;
use super::template::{Selector, Template};
use crate::diagnostic::{Diagnostic, Findings, did_you_mean, quoted_list};

/// The cells of the target that a reference leaves to the stage that refers: pinned and gathered axes are
/// gone. None if the brackets are wrong.
pub(crate) fn kept(
    reference: &Ref,
    target: &Relation,
    stages: &[Stage<'_>],
    findings: &mut Findings,
) -> Option<Relation> {
    let before = findings.errors();
    let name = &stages[reference.target].decl.name;
    let mut pins = Vec::new();
    for (axis_name, selector, span) in &reference.expr.selectors {
        let Some(at) = target.position(axis_name) else {
            let names = || target.axes.iter().map(|axis| axis.name.as_str());
            let problem = Diagnostic::error(
                *span,
                format!("the stage `{name}` has no axis `{axis_name}`"),
            );
            let problem = match target.axes.len() {
                0 => problem.note("it has no axes"),
                _ => problem.note(format!("it has {}", quoted_list(names()))),
            };
            findings.push(problem.maybe_help(did_you_mean(axis_name, names())));
            continue;
        };
        let Selector::Pin(value) = selector else {
            continue;
        };
        let Some(text) = value.constant() else {
            continue;
        };
        let axis = &target.axes[at];
        match axis.position_of_text(text) {
            Some(index) => pins.push((at, index)),
            None => {
                let values: Vec<String> = axis.values.iter().map(crate::text::plain).collect();
                let problem = Diagnostic::error(
                    *span,
                    format!("the axis `{axis_name}` of `{name}` has no value `{text}`"),
                )
                .note(format!("it has {}", axis.list()))
                .maybe_help(did_you_mean(text, values.iter().map(String::as_str)));
                findings.push(problem);
            }
        }
    }
    if findings.errors() > before {
        return None;
    }
    let rows = target
        .rows
        .iter()
        .filter(|row| pins.iter().all(|&(at, index)| row[at] == index))
        .cloned()
        .collect();
    let pinned = Relation {
        axes: target.axes.clone(),
        rows,
    };
    let free: Vec<usize> = (0..target.axes.len())
        .filter(|&at| matches!(role(reference, target, at), Role::Free))
        .collect();
    Some(pinned.project(&free))
}

/// What a reference does with one axis of its target.
pub(super) enum Role<'a> {
    /// The value is that of the stage that refers.
    Free,
    /// The value is written.
    Pinned(&'a Template),
    /// All values.
    Gathered,
}

/// What `reference` does with the axis of its target at `at`.
pub(super) fn role<'a>(reference: &'a Ref, target: &Relation, at: usize) -> Role<'a> {
    let name = &target.axes[at].name;
    match reference
        .expr
        .selectors
        .iter()
        .find(|(axis, ..)| axis == name)
    {
        Some((_, Selector::Pin(value), _)) => Role::Pinned(value),
        Some((_, Selector::All, _)) => Role::Gathered,
        None if reference.expr.all => Role::Gathered,
        None => Role::Free,
    }
}

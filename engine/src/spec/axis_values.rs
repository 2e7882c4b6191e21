//! `${vars...}` and `${env...}` in a matrix. They are filled in before axes are read, since which cells there are hangs
//! on them.

use serde_json::Value;

use super::names::is_template;
use super::scope::{Scope, Vars};
use super::template::{self, Expr, Form, Part, Template};
use super::tree::{Data, Entry, NOTHING, Tree};
use crate::diagnostic::{Diagnostic, Findings, Span};

/// Fills in the matrices of a spec. What cannot be filled in is reported and left as it is: with its `${`.
pub(crate) fn fill(spec: &mut Tree, findings: &mut Findings) {
    let vars = spec
        .entry("vars")
        .map_or_else(|| NOTHING.clone(), |entry| entry.value.clone());
    let mut matrices: Vec<&mut Tree> = Vec::new();
    for entry in entries_of(spec) {
        match entry.key.as_str() {
            "matrix" => matrices.push(&mut entry.value),
            "stages" => {
                let stages = entries_of(&mut entry.value);
                let keys = stages.flat_map(|stage| entries_of(&mut stage.value));
                matrices.extend(
                    keys.filter(|entry| entry.key == "matrix")
                        .map(|entry| &mut entry.value),
                );
            }
            _ => {}
        }
    }
    matrices.retain(|matrix| has_templates(matrix));
    if matrices.is_empty() {
        return;
    }
    // Mistakes in vars are found again when the whole spec is read, and count once.
    let vars = Vars::new(&vars, findings);
    if vars.cyclic {
        return;
    }
    for matrix in matrices {
        fill_in(matrix, &vars, findings);
    }
}

fn entries_of(tree: &mut Tree) -> impl Iterator<Item = &mut Entry> {
    match &mut tree.data {
        Data::Map(entries) => entries.as_mut_slice(),
        _ => &mut [],
    }
    .iter_mut()
}

fn has_templates(tree: &Tree) -> bool {
    match &tree.data {
        Data::Scalar(_) => tree.text().is_some_and(is_template),
        Data::List(items) => items.iter().any(has_templates),
        Data::Map(entries) => entries.iter().any(|entry| has_templates(&entry.value)),
    }
}

fn fill_in(tree: &mut Tree, vars: &Vars<'_>, findings: &mut Findings) {
    match &mut tree.data {
        Data::List(items) => items
            .iter_mut()
            .for_each(|item| fill_in(item, vars, findings)),
        Data::Map(entries) => entries
            .iter_mut()
            .for_each(|entry| fill_in(&mut entry.value, vars, findings)),
        Data::Scalar(_) => match tree
            .text()
            .filter(|text| is_template(text))
            .map(|text| value(tree, text, vars))
        {
            None => {}
            Some(Ok(filled)) => *tree = filled,
            Some(Err(problem)) => findings.push(*problem),
        },
    }
}

/// What stands for the text of `tree`.
fn value(tree: &Tree, text: &str, vars: &Vars<'_>) -> Result<Tree, Box<Diagnostic>> {
    let template = template::parse(tree, text)?;
    if template.constant().is_some() {
        return Err(Box::new(Diagnostic::error(
            tree.span,
            "the value of an axis cannot hold `${`",
        )));
    }
    for part in &template.parts {
        let (message, span) = match part {
            Part::Expr(Expr::Ref(reference), span) => (
                format!("an axis takes values, and `{}` is a stage", reference.stage),
                span,
            ),
            Part::Expr(Expr::Axis(name), span) => (
                format!("the values of an axis cannot hang on the axis `{name}`"),
                span,
            ),
            _ => continue,
        };
        return Err(Box::new(Diagnostic::error(*span, message).help(
            "use `${vars.NAME}` or `${env.NAME}`, or write the values out",
        )));
    }
    let written = var_tree(&template, vars);
    let filled = Scope::new(vars, &[], &[])
        .value(&Form::Text(template))
        .map_err(|problem| Box::new(problem.also(tree.span, "a value of an axis")))?;
    Ok(with_places(filled, written, tree.span))
}

/// Where the var stands that a text is.
fn var_tree<'t>(template: &Template, vars: &Vars<'t>) -> Option<&'t Tree> {
    match template.whole()? {
        Expr::Var(path) => vars.at(path.constant()?)?.1,
        _ => None,
    }
}

/// `value` with the places of the tree it was written as, as far as both have the same shape; else at `span`.
fn with_places(value: Value, written: Option<&Tree>, span: Span) -> Tree {
    let here = written.map_or(span, |tree| tree.span);
    let data = match value {
        Value::Array(values) => {
            let items = written.and_then(Tree::items).unwrap_or_default();
            let item = |(at, value)| with_places(value, items.get(at), here);
            Data::List(values.into_iter().enumerate().map(item).collect())
        }
        Value::Object(values) => {
            let entry = |(key, value): (String, Value)| {
                let known = written.and_then(|tree| tree.entry(&key));
                Entry {
                    key_span: known.map_or(here, |entry| entry.key_span),
                    value: with_places(value, known.map(|entry| &entry.value), here),
                    key,
                }
            };
            Data::Map(values.into_iter().map(entry).collect())
        }
        scalar => Data::Scalar(scalar),
    };
    Tree {
        data,
        span: here,
        verbatim: None,
    }
}

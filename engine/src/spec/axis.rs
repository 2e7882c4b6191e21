//! Axes: the values a matrix varies, and the rules that leave combinations out or add some.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use serde_json::Value;

use super::names::{bad_name, is_name, is_template};
use super::series;
use super::tree::{self, Data, Tree};
use super::yaml;
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, quoted_list};
use crate::text::plain;

/// Keys of a matrix that are not axes.
const RULES: [&str; 2] = ["exclude", "include"];

/// Whose matrix an axis stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The experiment's.
    Top,
    /// That of the stage with this index.
    Stage(usize),
}

/// A name with the values it takes.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// Its name.
    pub(crate) name: String,
    /// Its values: those listed, then those that `include` adds.
    pub(crate) values: Vec<Value>,
    /// Where each value stands.
    pub(crate) spans: Vec<Span>,
    /// Where the name stands.
    pub(crate) span: Span,
    /// Whose it is.
    pub(crate) owner: Owner,
    /// How many of the values are listed.
    pub(crate) listed: usize,
    index: HashMap<String, u32>,
}

/// A combination that a rule names: (axis, values, place of the axis' name).
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// The axes it names, each with the values it means.
    pub(crate) entries: Vec<(String, Vec<Value>, Span)>,
    /// Where it stands.
    pub(crate) span: Span,
}

/// A `matrix:`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matrix {
    /// Its axes, in the order they are written.
    pub(crate) axes: Vec<Rc<Axis>>,
    /// Combinations to leave out; each may name some of the axes.
    pub(crate) exclude: Vec<Rule>,
    /// Combinations to add; each names all the axes.
    pub(crate) include: Vec<Rule>,
}

impl Axis {
    fn new(name: &str, span: Span, owner: Owner) -> Self {
        Self {
            name: name.to_owned(),
            values: Vec::new(),
            spans: Vec::new(),
            span,
            owner,
            listed: 0,
            index: HashMap::new(),
        }
    }

    /// Adds a value; false if it is there already.
    fn add(&mut self, value: Value, span: Span) -> bool {
        let Entry::Vacant(entry) = self.index.entry(identity(&value)) else {
            return false;
        };
        entry.insert(self.values.len() as u32);
        self.values.push(value);
        self.spans.push(span);
        true
    }

    /// The index of `value`; numbers are equal by value.
    pub(crate) fn position(&self, value: &Value) -> Option<u32> {
        self.index.get(&identity(value)).copied()
    }

    /// The index of the value that is written as `text`.
    pub(crate) fn position_of_text(&self, text: &str) -> Option<u32> {
        let as_number = || {
            yaml::plain_scalar(text)
                .ok()
                .and_then(|value| self.position(&value))
        };
        self.index.get(text).copied().or_else(as_number)
    }

    /// Its values as a list for people.
    pub(crate) fn list(&self) -> String {
        let shown: Vec<String> = self.values.iter().take(20).map(plain).collect();
        quoted_list(shown.iter().map(String::as_str))
            + if self.values.len() > 20 { ", ..." } else { "" }
    }
}

/// The same text for values that are the same: 1, 1.0 and "1" are.
fn identity(value: &Value) -> String {
    match value.as_f64() {
        Some(float) if value.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => {
            (float as i64).to_string()
        }
        _ => plain(value),
    }
}

impl Matrix {
    /// The axis called `name`.
    pub(crate) fn axis(&self, name: &str) -> Option<&Rc<Axis>> {
        self.axes.iter().find(|axis| axis.name == name)
    }

    /// Reads a `matrix:`.
    pub(crate) fn read(tree: &Tree, owner: Owner, findings: &mut Findings) -> Self {
        let Some(entries) = tree.entries() else {
            if !tree.is_null() {
                let message = format!(
                    "`matrix` takes a map from axis names to values, not {}",
                    tree.describe()
                );
                findings.push(
                    Diagnostic::error(tree.span, message).help("write `matrix: {seed: [0, 1, 2]}`"),
                );
            }
            return Self::default();
        };
        let mut axes: Vec<Axis> = entries
            .iter()
            .filter(|entry| !RULES.contains(&entry.key.as_str()))
            .map(|entry| read_axis(entry, owner, findings))
            .collect();
        let rules = |key, findings: &mut Findings| {
            tree.entry(key)
                .map_or_else(Vec::new, |entry| read_rules(entry, findings))
        };
        let exclude = rules("exclude", findings);
        let mut include = rules("include", findings);
        include.retain(|rule| extend(&mut axes, rule, findings));
        Self {
            axes: axes.into_iter().map(Rc::new).collect(),
            exclude,
            include,
        }
    }
}

/// Adds the values of an `include` rule to the axes; false if the rule does not name them all.
fn extend(axes: &mut [Axis], rule: &Rule, findings: &mut Findings) -> bool {
    let mut fits = true;
    for (name, values, span) in &rule.entries {
        if values.len() != 1 {
            findings.push(Diagnostic::error(
                *span,
                format!("`include` takes one value for `{name}`"),
            ));
            fits = false;
        } else if !axes.iter().any(|axis| axis.name == *name) {
            let names = || axes.iter().map(|axis| axis.name.as_str());
            let problem = Diagnostic::error(*span, format!("this matrix has no axis `{name}`"))
                .note(format!("it has {}", quoted_list(names())))
                .maybe_help(did_you_mean(name, names()));
            findings.push(problem);
            fits = false;
        }
    }
    let missing: Vec<&str> = axes
        .iter()
        .map(|axis| axis.name.as_str())
        .filter(|name| !rule.entries.iter().any(|(named, ..)| named == name))
        .collect();
    if fits && !missing.is_empty() {
        let message = format!("this combination has no value for {}", quoted_list(missing));
        findings.push(
            Diagnostic::error(rule.span, message)
                .help("an `include` entry names every axis of its matrix"),
        );
        return false;
    }
    if fits {
        for (name, values, span) in &rule.entries {
            if let Some(axis) = axes.iter_mut().find(|axis| axis.name == *name) {
                axis.add(values[0].clone(), *span);
            }
        }
    }
    fits
}

fn read_axis(entry: &tree::Entry, owner: Owner, findings: &mut Findings) -> Axis {
    let name = &entry.key;
    let mut axis = Axis::new(name, entry.key_span, owner);
    if !is_name(name) {
        findings.push(bad_name(entry.key_span, "axis", name));
    }
    let values = match &entry.value.data {
        Data::List(items) => scalars(items, findings),
        Data::Map(_) => series::series(&entry.value, findings),
        // What could not be filled in has been reported.
        Data::Scalar(_) if entry.value.text().is_some_and(is_template) => return axis,
        Data::Scalar(_) => {
            let message = format!(
                "the axis `{name}` takes a list of values, not {}",
                entry.value.describe()
            );
            let help = format!(
                "write `{name}: [{}]`",
                entry
                    .value
                    .text()
                    .map_or_else(|| plain(&entry.value.to_value()), str::to_owned)
            );
            findings.push(Diagnostic::error(entry.value.span, message).help(help));
            return axis;
        }
    };
    if values.is_empty() && entry.value.items().is_some_and(<[Tree]>::is_empty) {
        let message = format!("the axis `{name}` has no values");
        findings
            .push(Diagnostic::error(entry.value.span, message).help("give it values or remove it"));
    }
    for (value, span) in values {
        let text = plain(&value);
        if !axis.add(value, span) {
            let message = format!("the axis `{name}` has the value `{text}` twice");
            let mut problem = Diagnostic::error(span, message).help("remove one of the two");
            if let Some(first) = axis
                .position_of_text(&text)
                .and_then(|at| axis.spans.get(at as usize))
            {
                problem = problem.also(*first, "first here");
            }
            findings.push(problem);
        }
    }
    axis.listed = axis.values.len();
    axis
}

fn scalars(items: &[Tree], findings: &mut Findings) -> Vec<(Value, Span)> {
    let mut values = Vec::new();
    for item in items {
        match &item.data {
            // What could not be filled in has been reported.
            Data::Scalar(Value::String(text)) if is_template(text) => {}
            Data::Scalar(value) if !value.is_null() => values.push((value.clone(), item.span)),
            _ => {
                let message = format!(
                    "a value of an axis is text, a number or a truth value, not {}",
                    item.describe()
                );
                findings.push(Diagnostic::error(item.span, message));
            }
        }
    }
    values
}

fn read_rules(entry: &tree::Entry, findings: &mut Findings) -> Vec<Rule> {
    let Some(items) = entry.value.items() else {
        let message = format!(
            "`{}` takes a list of combinations, not {}",
            entry.key,
            entry.value.describe()
        );
        findings.push(Diagnostic::error(entry.value.span, message).help("write `- {axis: value}`"));
        return Vec::new();
    };
    let mut rules = Vec::new();
    for item in items {
        let Some(named) = item.entries().filter(|named| !named.is_empty()) else {
            let message = format!(
                "a combination is a map from axes to values, not {}",
                item.describe()
            );
            findings.push(Diagnostic::error(item.span, message));
            continue;
        };
        let read = |entry: &tree::Entry, findings: &mut Findings| {
            let values = match entry.value.items() {
                Some(items) => scalars(items, findings),
                None => scalars(std::slice::from_ref(&entry.value), findings),
            };
            (
                entry.key.clone(),
                values.into_iter().map(|(value, _)| value).collect(),
                entry.key_span,
            )
        };
        rules.push(Rule {
            entries: named.iter().map(|entry| read(entry, findings)).collect(),
            span: item.span,
        });
    }
    rules
}

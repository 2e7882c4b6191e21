//! Axes: the values a matrix varies, and the rules that leave combinations out or add some.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use serde_json::{Number, Value};

use super::names::{bad_name, is_name, is_template};
use super::tree::{self, Data, Tree};
use super::yaml;
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, quoted_list};
use crate::text::plain;

/// Most values of one axis.
const MAX_VALUES: usize = 100_000;
/// Significant digits of computed values: few enough that every platform's `powf` rounds to the same value.
const DIGITS: usize = 12;
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
        Data::Map(_) => series(&entry.value, findings),
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

/// Ways to make values.
const FORMS: [&str; 4] = ["range", "every", "linspace", "logspace"];

/// Whether `tree` makes the values of an axis, as `{range: [0, 4]}`.
pub(crate) fn is_series(tree: &Tree) -> bool {
    matches!(tree.entries(), Some([entry]) if FORMS.contains(&entry.key.as_str()))
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

/// `{range: [a, b, step]}`, `{every: [step, last]}`, `{linspace: [a, b, n]}`, `{logspace: [a, b, n]}`.
fn series(tree: &Tree, findings: &mut Findings) -> Vec<(Value, Span)> {
    let entries = tree.entries().unwrap_or_default();
    let [entry] = entries else {
        let problem = Diagnostic::error(
            tree.span,
            "an axis is a list, or a map with one of `range`, `every`, `linspace`, `logspace`",
        );
        findings.push(problem.help("write `{range: [0, 10, 2]}`"));
        return Vec::new();
    };
    if !FORMS.contains(&entry.key.as_str()) {
        let problem = Diagnostic::error(
            entry.key_span,
            format!("`{}` is no way to make values", entry.key),
        )
        .note(format!("there are {}", quoted_list(FORMS)))
        .maybe_help(did_you_mean(&entry.key, FORMS));
        findings.push(problem);
        return Vec::new();
    }
    let unknown = |item: &Tree| item.text().is_some_and(is_template);
    if unknown(&entry.value)
        || entry
            .value
            .items()
            .is_some_and(|items| items.iter().any(unknown))
    {
        return Vec::new();
    }
    let numbers: Option<Vec<&Number>> = entry.value.items().and_then(|items| {
        items
            .iter()
            .map(|item| {
                if let Data::Scalar(Value::Number(number)) = &item.data {
                    Some(number)
                } else {
                    None
                }
            })
            .collect()
    });
    let made = match (entry.key.as_str(), numbers.as_deref()) {
        ("range", Some([a, b])) => range(a, b, &Number::from(1)),
        ("range", Some([a, b, step])) => range(a, b, step),
        ("every", Some([step, last])) => every(step, last),
        ("every", _) => {
            Err("`every` takes two whole numbers: the step and the last value".to_owned())
        }
        ("linspace", Some([a, b, n])) => spaced(a, b, n, |a, b, t| a + (b - a) * t),
        ("logspace", Some([a, b, n])) if float(a) > 0.0 && float(b) > 0.0 => {
            spaced(a, b, n, |a, b, t| a * (b / a).powf(t))
        }
        ("logspace", Some([_, _, _])) => Err("both ends of `logspace` are above 0".to_owned()),
        ("range", _) => Err("`range` takes three numbers: first, last, step".to_owned()),
        (form, _) => Err(format!(
            "`{form}` takes three numbers: first, last, how many"
        )),
    };
    match made {
        Ok(values) => values
            .into_iter()
            .map(|value| (value, entry.value.span))
            .collect(),
        Err(message) => {
            findings.push(Diagnostic::error(entry.value.span, message));
            Vec::new()
        }
    }
}

fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

/// `a`, `a + step`, ... up to `b`, which is included where it is hit. Whole numbers stay whole; others are
/// rounded to as many decimals as `a` and `step` are written with.
fn range(a: &Number, b: &Number, step: &Number) -> Result<Vec<Value>, String> {
    let (first, last, by) = (float(a), float(b), float(step));
    let whole = [a, b, step].map(Number::as_i128);
    let count = match whole {
        // Exact, also above 2^53.
        [Some(first), Some(last), Some(by)] if by != 0 => ((last - first) / by) as f64,
        _ => ((last - first) / by + 1e-9).floor(),
    };
    if by == 0.0 || count < 0.0 || (last - first) * by < 0.0 {
        return Err(format!("the step {step} does not lead from {a} to {b}"));
    }
    if count >= MAX_VALUES as f64 {
        return Err(format!("more than {MAX_VALUES} values"));
    }
    if let [Some(first), _, Some(by)] = whole {
        let value = |i: i128| Number::from_i128(first + i * by).map(Value::Number);
        let values: Option<Vec<Value>> = (0..=count as i128).map(value).collect();
        return values.ok_or_else(|| format!("{b} is too large for a 64-bit integer"));
    }
    let decimals = [first, by].map(|value| {
        value
            .to_string()
            .split_once('.')
            .map_or(0, |(_, digits)| digits.len())
    });
    let decimals = decimals[0].max(decimals[1]);
    let value = |i: u64| rounded(&format!("{:.decimals$}", first + i as f64 * by));
    Ok((0..=count as u64).map(value).collect())
}

/// The multiples of `step` below `last`, and `last`: the steps at which a trainer of `last` steps saves its model with
/// `save_steps: step`. A step of 0 gives `last` alone, as there.
fn every(step: &Number, last: &Number) -> Result<Vec<Value>, String> {
    let whole = |number: &Number| super::tree::whole(&Value::Number(number.clone()));
    let (Some(step), Some(last)) = (whole(step), whole(last).filter(|last| *last > 0)) else {
        return Err(format!(
            "`every` takes two whole numbers, the step and the last value, which is above 0; not {step} and {last}"
        ));
    };
    let before = (last - 1).checked_div(step).unwrap_or(0);
    if before >= MAX_VALUES as u64 {
        return Err(format!("more than {MAX_VALUES} values"));
    }
    let multiples = (1..=before).map(|at| at * step);
    Ok(multiples.chain([last]).map(Value::from).collect())
}

/// `n` values from `a` to `b`, both included. Whole if both ends and all values are.
fn spaced(
    a: &Number,
    b: &Number,
    n: &Number,
    at: impl Fn(f64, f64, f64) -> f64,
) -> Result<Vec<Value>, String> {
    let count = n
        .as_u64()
        .filter(|count| (2..=MAX_VALUES as u64).contains(count));
    let count =
        count.ok_or_else(|| format!("the number of values is from 2 to {MAX_VALUES}, not {n}"))?;
    let (first, last) = (float(a), float(b));
    let inner = (1..count - 1).map(|i| at(first, last, i as f64 / (count - 1) as f64));
    let inner: Vec<Value> = inner
        .map(|value| rounded(&format!("{value:.*e}", DIGITS - 1)))
        .collect();
    let whole = a.is_i64()
        && b.is_i64()
        && inner
            .iter()
            .all(|value| value.as_f64().is_some_and(|v| v.fract() == 0.0));
    let ends = [Value::Number(a.clone()), Value::Number(b.clone())];
    let [head, tail] = if whole {
        ends
    } else {
        [Value::from(first), Value::from(last)]
    };
    let inner = inner.into_iter().map(|value| {
        if whole {
            Value::from(value.as_f64().unwrap_or(0.0) as i64)
        } else {
            value
        }
    });
    Ok([head].into_iter().chain(inner).chain([tail]).collect())
}

fn rounded(text: &str) -> Value {
    Value::from(text.parse::<f64>().unwrap_or(f64::NAN))
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

//! The spec's own keys: from a tree to declarations, everything below `with:` left as it is.

use super::axis::{Matrix, Owner};
use super::names::{bad_name, is_name};
use super::tree::{Data, Entry, NOTHING, Tree};
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, quoted_list};
use crate::study::{ExecutionOptions, Resources, Shards};
use crate::units;
use serde_json::Value;

/// The version of the spec language that this engine reads.
pub const VERSION: u64 = 1;

/// Longest name of a spec, in bytes: the report's folder is called by it.
const MAX_NAME: usize = 100;

/// Keys of a spec.
pub(crate) const SPEC_KEYS: [&str; 7] = [
    "dcsft",
    "name",
    "description",
    "extends",
    "vars",
    "matrix",
    "stages",
];
/// Keys of a stage.
pub(crate) const STAGE_KEYS: [&str; 9] = [
    "uses",
    "with",
    "matrix",
    "arm",
    "resources",
    "timeout",
    "retries",
    "shards",
    "description",
];
const RESOURCE_KEYS: [&str; 7] = [
    "gpus",
    "threads",
    "time",
    "memory",
    "partition",
    "account",
    "flags",
];
/// Names that mean something else in `${...}`.
const RESERVED: [&str; 3] = ["matrix", "vars", "env"];

/// A spec, read.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    /// `name:`.
    pub(crate) name: String,
    /// `vars:`, a map.
    pub(crate) vars: &'t Tree,
    /// `matrix:` at the top.
    pub(crate) matrix: Matrix,
    /// `stages:`, in the order they are written.
    pub(crate) stages: Vec<StageDecl<'t>>,
}

/// One stage, read.
#[derive(Debug)]
pub(crate) struct StageDecl<'t> {
    /// Its name.
    pub(crate) name: String,
    /// Where the name stands.
    pub(crate) span: Span,
    /// `uses:`, where it could be read.
    pub(crate) uses: Option<(String, Span)>,
    /// `with:`, a map.
    pub(crate) with: &'t Tree,
    /// `matrix:`.
    pub(crate) matrix: Matrix,
    /// `arm:`.
    pub(crate) arm: Option<&'t Tree>,
    /// `resources:`, `timeout:`, `retries:`, `shards:`.
    pub(crate) execution: ExecutionOptions,
    /// Where the value of `shards:` stands, if it is given.
    pub(crate) shards: Option<Span>,
}

/// Reads the spec's own keys.
pub(crate) fn read<'t>(tree: &'t Tree, findings: &mut Findings) -> Document<'t> {
    unknown_keys(tree, "a spec", &SPEC_KEYS, findings);
    version(tree, findings);
    let name = name(tree, findings);
    text_only(tree, "description", findings);
    let vars = tree
        .entry("vars")
        .map_or(&NOTHING, |entry| map_at(entry, findings));
    for entry in vars.entries().unwrap_or_default() {
        if !is_name(&entry.key) {
            findings.push(bad_name(entry.key_span, "var", &entry.key));
        }
    }
    let matrix = tree.entry("matrix").map_or_else(Matrix::default, |entry| {
        Matrix::read(&entry.value, Owner::Top, findings)
    });
    let stages = match tree.entry("stages") {
        Some(entry) => map_at(entry, findings),
        None => {
            let problem = Diagnostic::error(tree.span, "the spec has no `stages`");
            findings.push(problem.help("write `stages:` with at least one stage below it"));
            &NOTHING
        }
    };
    let entries = stages.entries().unwrap_or_default();
    if let (true, Some(entry)) = (
        entries.is_empty(),
        tree.entry("stages")
            .filter(|entry| entry.value.entries().is_some()),
    ) {
        findings.push(Diagnostic::error(entry.key_span, "`stages` has no stage"));
    }
    let stages = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| stage(entry, index, findings))
        .collect();
    Document {
        name,
        vars,
        matrix,
        stages,
    }
}

fn version(tree: &Tree, findings: &mut Findings) {
    let Some(entry) = tree.entry("dcsft") else {
        let problem = Diagnostic::error(
            tree.span,
            "the spec does not say which version of the language it is in",
        );
        findings.push(problem.help(format!("begin it with `dcsft: {VERSION}`")));
        return;
    };
    if entry.value.to_value() != VERSION {
        let message = format!(
            "`dcsft` is the version of the spec language: {VERSION}, not {}",
            entry.value.describe()
        );
        findings.push(
            Diagnostic::error(entry.value.span, message).help(format!("write `dcsft: {VERSION}`")),
        );
    }
}

fn name(tree: &Tree, findings: &mut Findings) -> String {
    let Some(entry) = tree.entry("name") else {
        findings.push(
            Diagnostic::error(tree.span, "the spec has no `name`").help("write `name: my-study`"),
        );
        return String::new();
    };
    let fits = |text: &&str| {
        (1..=MAX_NAME).contains(&text.len())
            && !text.starts_with('.')
            && text
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match entry.value.text().filter(fits) {
        Some(text) => text.to_owned(),
        None => {
            let message = format!(
                "`name` takes up to {MAX_NAME} letters, digits, `-`, `_` and `.`, not {}",
                entry.value.describe()
            );
            findings
                .push(Diagnostic::error(entry.value.span, message).help("write `name: my-study`"));
            String::new()
        }
    }
}

fn stage<'t>(entry: &'t Entry, index: usize, findings: &mut Findings) -> StageDecl<'t> {
    let mut decl = StageDecl {
        name: entry.key.clone(),
        span: entry.key_span,
        uses: None,
        with: &NOTHING,
        matrix: Matrix::default(),
        arm: None,
        execution: ExecutionOptions::default(),
        shards: None,
    };
    if !is_name(&entry.key) {
        findings.push(bad_name(entry.key_span, "stage", &entry.key));
    } else if RESERVED.contains(&entry.key.as_str()) {
        let message = format!(
            "`{}` cannot name a stage: `${{{}...}}` means something else",
            entry.key, entry.key
        );
        findings
            .push(Diagnostic::error(entry.key_span, message).help("give the stage another name"));
    }
    let body = &entry.value;
    if body.entries().is_none() {
        let message = format!(
            "the stage `{}` takes a map, not {}",
            entry.key,
            body.describe()
        );
        let span = if body.is_null() {
            entry.key_span
        } else {
            body.span
        };
        findings
            .push(Diagnostic::error(span, message).help("write at least `uses: KIND` below it"));
        return decl;
    }
    unknown_keys(body, "a stage", &STAGE_KEYS, findings);
    text_only(body, "description", findings);
    decl.uses = uses(body, entry, findings);
    if let Some(with) = body.entry("with") {
        decl.with = map_at(with, findings);
    }
    if let Some(matrix) = body.entry("matrix") {
        decl.matrix = Matrix::read(&matrix.value, Owner::Stage(index), findings);
    }
    if let Some(arm) = text_only(body, "arm", findings) {
        decl.arm = Some(arm);
    }
    decl.execution = execution(body, findings);
    decl.shards = body.entry("shards").map(|entry| entry.value.span);
    decl
}

fn uses(body: &Tree, stage: &Entry, findings: &mut Findings) -> Option<(String, Span)> {
    let Some(entry) = body.entry("uses") else {
        let message = format!(
            "the stage `{}` does not say which kind it `uses`",
            stage.key
        );
        findings.push(Diagnostic::error(stage.key_span, message).help("write `uses: KIND`"));
        return None;
    };
    let Some(text) = entry.value.text() else {
        let message = format!(
            "`uses` takes the name of a stage kind, not {}",
            entry.value.describe()
        );
        findings.push(Diagnostic::error(entry.value.span, message));
        return None;
    };
    Some((text.to_owned(), entry.value.span))
}

fn execution(body: &Tree, findings: &mut Findings) -> ExecutionOptions {
    let mut execution = ExecutionOptions::default();
    if let Some(entry) = body.entry("timeout") {
        execution.timeout = duration(entry, findings);
    }
    if let Some(entry) = body.entry("retries") {
        execution.retries = whole(entry, findings).unwrap_or(0);
    }
    if let Some(entry) = body.entry("shards") {
        execution.shards = shards(entry, findings).unwrap_or_default();
    }
    if let Some(entry) = body.entry("resources") {
        execution.resources = resources(map_at(entry, findings), findings);
    }
    execution
}

fn shards(entry: &Entry, findings: &mut Findings) -> Option<Shards> {
    let shards = match &entry.value.data {
        Data::Scalar(Value::String(text)) if text == "auto" => Some(Shards::Auto),
        Data::Scalar(value) => super::tree::whole(value)
            .and_then(|count| u32::try_from(count).ok())
            .filter(|count| (1..=Shards::MOST).contains(count))
            .map(Shards::Count),
        _ => None,
    };
    if shards.is_none() {
        let wants = format!("a whole number from 1 to {}, or `auto`", Shards::MOST);
        findings.push(mistyped(entry, &wants));
    }
    shards
}

/// Seconds.
fn duration(entry: &Entry, findings: &mut Findings) -> Option<f64> {
    let seconds = match &entry.value.data {
        Data::Scalar(Value::Number(number)) => number.as_f64(),
        Data::Scalar(Value::String(text)) => units::seconds(text),
        _ => None,
    };
    let seconds = seconds.filter(|seconds| units::is_time(*seconds));
    if seconds.is_none() {
        findings.push(mistyped(
            entry,
            "a time such as `90s`, `30m`, `2h`, or seconds",
        ));
    }
    seconds
}

fn resources(tree: &Tree, findings: &mut Findings) -> Resources {
    unknown_keys(tree, "`resources`", &RESOURCE_KEYS, findings);
    let mut resources = Resources::default();
    if let Some(entry) = tree.entry("gpus") {
        resources.gpus = whole(entry, findings).unwrap_or(0);
    }
    if let Some(entry) = tree.entry("threads") {
        let threads = whole(entry, findings);
        if threads == Some(0) {
            findings.push(mistyped(entry, "a number of threads from 1"));
        }
        resources.threads = threads.map(|threads| threads as usize);
    }
    if let Some(entry) = tree.entry("time") {
        resources.time = duration(entry, findings);
    }
    let mut text = |key: &str, fits: fn(&str) -> bool, what: &str| {
        let entry = tree.entry(key)?;
        let text = entry.value.text().filter(|text| fits(text));
        if text.is_none() {
            findings.push(mistyped(entry, what));
        }
        text.map(str::to_owned)
    };
    let memory = "an amount of memory such as `16GiB`";
    let memory = text("memory", units::is_memory, memory);
    resources.memory = memory.as_deref().and_then(units::bytes);
    let word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    resources.partition = text("partition", word, "the name of a partition");
    resources.account = text("account", word, "the name of an account");
    if let Some(entry) = tree.entry("flags") {
        resources.flags = texts(entry, findings);
    }
    resources
}

/// A list of texts.
fn texts(entry: &Entry, findings: &mut Findings) -> Vec<String> {
    let texts: Option<Vec<String>> = match &entry.value.data {
        Data::List(items) => items
            .iter()
            .map(|item| item.text().map(str::to_owned))
            .collect(),
        _ => None,
    };
    if texts.is_none() {
        findings.push(mistyped(entry, "a list of arguments such as `[--nice=10]`"));
    }
    texts.unwrap_or_default()
}

fn whole(entry: &Entry, findings: &mut Findings) -> Option<u32> {
    let number = match &entry.value.data {
        Data::Scalar(value) => {
            super::tree::whole(value).and_then(|value| u32::try_from(value).ok())
        }
        _ => None,
    };
    if number.is_none() {
        findings.push(mistyped(entry, "a whole number from 0"));
    }
    number
}

fn mistyped(entry: &Entry, wants: &str) -> Diagnostic {
    let message = format!(
        "`{}` takes {wants}, not {}",
        entry.key,
        entry.value.describe()
    );
    Diagnostic::error(entry.value.span, message)
}

/// The map below a key; an empty one if there is nothing, or something else.
fn map_at<'t>(entry: &'t Entry, findings: &mut Findings) -> &'t Tree {
    if entry.value.entries().is_some() {
        return &entry.value;
    }
    if !entry.value.is_null() {
        findings.push(mistyped(entry, "a map"));
    }
    &NOTHING
}

fn text_only<'a>(tree: &'a Tree, key: &str, findings: &mut Findings) -> Option<&'a Tree> {
    let entry = tree.entry(key)?;
    if entry.value.text().is_none() {
        findings.push(mistyped(entry, "text"));
        return None;
    }
    Some(&entry.value)
}

fn unknown_keys(tree: &Tree, what: &str, allowed: &[&str], findings: &mut Findings) {
    for entry in tree.entries().unwrap_or_default() {
        if !allowed.contains(&entry.key.as_str()) {
            let problem =
                Diagnostic::error(entry.key_span, format!("{what} has no key `{}`", entry.key))
                    .note(format!("it has {}", quoted_list(allowed.iter().copied())))
                    .maybe_help(did_you_mean(&entry.key, allowed.iter().copied()));
            findings.push(problem);
        }
    }
}

//! Params of one stage against its kind: every mistake with the field it is in.
//!
//! The kind's JSON Schema finds all mistakes at once; the kind itself then parses what the schema lets through.
//! Both are asked once for each distinct `with:` of a kind.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcsft_cache::Digest;
use jsonschema::Validator;
use rayon::prelude::*;
use serde_json::Value;

use super::mismatch::Translator;
use super::problem::{Problem, dotted};
use super::tree::whole;
use crate::stage::{FieldPath, FileParam, Kind, OutputDecl, ParamProblem, Params, ResolvedParams};

/// What became of a `with:`.
pub(crate) type Outcome = Result<Arc<Resolved>, Arc<Vec<Problem>>>;

/// Typed params with defaults, as [`ResolvedParams`], in the form that nodes share.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The params.
    pub(crate) params: Params,
    /// The stage's outputs, default first.
    pub(crate) outputs: Arc<[OutputDecl]>,
    /// The user's files.
    pub(crate) files: Arc<[FileParam]>,
}

/// Checks params; remembers what it has seen.
pub(crate) struct Checker {
    root: PathBuf,
    kinds: HashMap<&'static str, Checks>,
}

/// What is remembered of one kind.
struct Checks {
    schema: Value,
    /// None if the schema itself cannot be used; the kind's own parsing then finds one mistake at a time.
    validator: Option<Validator>,
    /// Outcomes by the digest of the text of `with:`.
    seen: HashMap<Digest, Outcome>,
    /// The outputs of the stage resolved last: those of its neighbours are mostly the same.
    outputs: Arc<[OutputDecl]>,
}

impl Checker {
    /// A checker for specs whose relative paths are relative to `root`.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            kinds: HashMap::new(),
        }
    }

    /// What becomes of each `with:`, in their order.
    pub(crate) fn resolve(&mut self, kind: &dyn Kind, withs: &[&Value]) -> Vec<Outcome> {
        let root = &self.root;
        let checks = self
            .kinds
            .entry(kind.decl().name)
            .or_insert_with(|| Checks::new(kind));
        let texts: Vec<Digest> = withs
            .par_iter()
            .with_min_len(16)
            .map(|with| Digest::of_bytes(with.to_string().as_bytes()))
            .collect();
        let mut met = HashSet::new();
        let fresh: Vec<(Digest, &Value)> = std::iter::zip(&texts, withs)
            .filter(|(text, _)| !checks.seen.contains_key(text) && met.insert(**text))
            .map(|(text, with)| (*text, *with))
            .collect();
        let found: Vec<(Digest, Result<ResolvedParams, Vec<Problem>>)> = fresh
            .into_par_iter()
            .with_min_len(16)
            .map(|(text, with)| {
                let problems = checks.problems(kind, with);
                let parsed = if problems.is_empty() {
                    parse(kind, with, root)
                } else {
                    Err(problems)
                };
                (text, parsed)
            })
            .collect();
        for (text, parsed) in found {
            let outcome = parsed
                .map(|params| Arc::new(checks.share(params)))
                .map_err(Arc::new);
            checks.seen.insert(text, outcome);
        }
        texts.iter().map(|text| checks.seen[text].clone()).collect()
    }

    /// The mistakes that the schema finds, for params of which not all are known.
    pub(crate) fn problems(&mut self, kind: &dyn Kind, with: &Value) -> Vec<Problem> {
        self.kinds
            .entry(kind.decl().name)
            .or_insert_with(|| Checks::new(kind))
            .problems(kind, with)
    }
}

/// Params as the kind has them. Where a field takes whole numbers, `4.0` and `1e3` are the whole numbers they look like:
/// what the kind does not take as written is tried so.
fn parse(kind: &dyn Kind, with: &Value, root: &Path) -> Result<ResolvedParams, Vec<Problem>> {
    let words = |found: Vec<ParamProblem>| {
        let problem = |problem: ParamProblem| {
            let message = mistyped(&problem.message).unwrap_or(problem.message);
            own(kind, problem.path, &message)
        };
        found.into_iter().map(problem).collect()
    };
    let found = match kind.resolve(with, root) {
        Ok(params) => return Ok(params),
        Err(found) => found,
    };
    let mut whole = with.clone();
    if !make_whole(&mut whole) {
        return Err(words(found));
    }
    let resolved = kind.resolve(&whole, root);
    resolved.map_err(words)
}

/// Turns floats that are whole into integers; whether there were any.
fn make_whole(value: &mut Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => {
            let negative = number.as_f64().is_some_and(|float| float < 0.0);
            let magnitude = number.as_f64().map(|float| Value::from(float.abs()));
            match magnitude.as_ref().and_then(whole).map(i64::try_from) {
                Some(Ok(magnitude)) => {
                    *value = Value::from(if negative { -magnitude } else { magnitude });
                    true
                }
                _ => false,
            }
        }
        // No shortcut: all of them are turned.
        Value::Array(items) => items
            .iter_mut()
            .fold(false, |any, item| make_whole(item) | any),
        Value::Object(entries) => entries
            .values_mut()
            .fold(false, |any, item| make_whole(item) | any),
        _ => false,
    }
}

/// What the parser says of a value of another type, in the words of a spec.
fn mistyped(message: &str) -> Option<String> {
    let (found, expected) = message.rsplit_once(", expected ")?;
    let found = found
        .strip_prefix("invalid type: ")
        .or_else(|| found.strip_prefix("invalid value: "))?;
    let quoted = |prefix: &str| {
        found
            .strip_prefix(prefix)
            .map(|text| text.trim_matches('`'))
    };
    let found = match found {
        "map" => "a map".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" => "null".to_owned(),
        _ => quoted("floating point ")
            .or_else(|| quoted("integer "))
            .map(|number| format!("the number {number}"))
            .or_else(|| quoted("boolean ").map(|truth| format!("`{truth}`")))
            .or_else(|| quoted("string ").map(|text| format!("the text {text}")))?,
    };
    let wants = match expected {
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number from 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a string" | "string" => "text".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a map".to_owned(),
        other if other.starts_with("struct ") => "a map".to_owned(),
        other if other.starts_with("nonzero") => "a whole number above 0".to_owned(),
        _ => return None,
    };
    Some(format!("takes {wants}, not {found}"))
}

/// A mistake that the kind found itself.
fn own(kind: &dyn Kind, path: FieldPath, message: &str) -> Problem {
    let message = if path.is_empty() {
        format!("`{}`: {message}", kind.decl().name)
    } else {
        format!("`{}` of `{}`: {message}", dotted(&path), kind.decl().name)
    };
    Problem::new(path, message)
}

impl Checks {
    fn new(kind: &dyn Kind) -> Self {
        let schema = kind.schema().to_value();
        let validator = jsonschema::validator_for(&schema).ok();
        Self {
            schema,
            validator,
            seen: HashMap::new(),
            outputs: Arc::default(),
        }
    }

    fn share(&mut self, resolved: ResolvedParams) -> Resolved {
        if *self.outputs != *resolved.outputs {
            self.outputs = resolved.outputs.into();
        }
        Resolved {
            params: resolved.params,
            outputs: Arc::clone(&self.outputs),
            files: resolved.files.into(),
        }
    }

    fn problems(&self, kind: &dyn Kind, with: &Value) -> Vec<Problem> {
        let Some(validator) = &self.validator else {
            return Vec::new();
        };
        if validator.is_valid(with) {
            return Vec::new();
        }
        let mut translator = Translator::new(kind, &self.schema);
        for error in validator.iter_errors(with) {
            translator.translate(&error);
        }
        translator.problems
    }
}

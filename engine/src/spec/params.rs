//! Params of one stage against its kind: every mistake with the field it is in.
//!
//! The kind's JSON Schema finds all mistakes at once; the kind itself then parses what the schema lets through.
//! Both are asked once for each distinct `with:` of a kind.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use jsonschema::Validator;
use serde_json::Value;

use super::mismatch::{Translator, dotted};
use crate::kind::{Kind, ResolvedParams};

/// A mistake in a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Keys and indices from `with:` to the field.
    pub(crate) path: Vec<String>,
    /// The key is wrong rather than its value.
    pub(crate) on_key: bool,
    /// What is wrong.
    pub(crate) message: String,
    /// What is allowed.
    pub(crate) note: Option<String>,
    /// What to do.
    pub(crate) help: Option<String>,
    /// The field that is missing, if one is.
    pub(super) lacks: Option<String>,
}

impl Problem {
    pub(super) fn new(path: Vec<String>, message: String) -> Self {
        Self {
            path,
            on_key: false,
            message,
            note: None,
            help: None,
            lacks: None,
        }
    }

    /// Whether the mistake is that `field` is not there.
    pub(crate) fn is_lack_of(&self, field: &str) -> bool {
        self.lacks.as_deref() == Some(field)
    }
}

type Outcome = Result<Rc<ResolvedParams>, Rc<Vec<Problem>>>;

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
    /// Outcomes by the text of `with:`.
    seen: HashMap<String, Outcome>,
}

impl Checker {
    /// A checker for specs whose relative paths are relative to `root`.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            kinds: HashMap::new(),
        }
    }

    /// Typed params with defaults.
    ///
    /// # Errors
    /// All mistakes.
    pub(crate) fn resolve(&mut self, kind: &dyn Kind, with: &Value) -> Outcome {
        let root = &self.root;
        let checks = self
            .kinds
            .entry(kind.name())
            .or_insert_with(|| Checks::new(kind));
        let text = with.to_string();
        if let Some(seen) = checks.seen.get(&text) {
            return seen.clone();
        }
        let mut problems = checks.problems(kind, with);
        let mut resolved = None;
        if problems.is_empty() {
            match kind.resolve(with, root) {
                Ok(params) => resolved = Some(Rc::new(params)),
                Err(found) => {
                    problems = found
                        .into_iter()
                        .map(|problem| own(kind, problem.path, &problem.message))
                        .collect();
                }
            }
        }
        let outcome = resolved.ok_or_else(|| Rc::new(problems));
        checks.seen.insert(text, outcome.clone());
        outcome
    }

    /// The mistakes that the schema finds, for params of which not all are known.
    pub(crate) fn problems(&mut self, kind: &dyn Kind, with: &Value) -> Vec<Problem> {
        self.kinds
            .entry(kind.name())
            .or_insert_with(|| Checks::new(kind))
            .problems(kind, with)
    }
}

/// A mistake that the kind found itself.
fn own(kind: &dyn Kind, path: Vec<String>, message: &str) -> Problem {
    let message = if path.is_empty() {
        format!("`{}`: {message}", kind.name())
    } else {
        format!("`{}` of `{}`: {message}", dotted(&path), kind.name())
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

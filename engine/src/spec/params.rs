//! Params of one stage against its kind: every mistake with the field it is in.
//!
//! The kind's JSON Schema finds all mistakes at once; the kind itself then parses what the schema lets through.
//! Both are asked once for each distinct `with:` of a kind.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use jsonschema::Validator;
use jsonschema::error::{TypeKind, ValidationError, ValidationErrorKind};
use serde_json::Value;

use super::tree::describe;
use crate::diagnostic::{did_you_mean, quoted_list};
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
    lacks: Option<String>,
}

impl Problem {
    fn new(path: Vec<String>, message: String) -> Self {
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
        let mut problems = Vec::new();
        for error in validator.iter_errors(with) {
            self.translate(kind, &error, &mut problems);
        }
        problems
    }

    /// One schema error in the words of the spec.
    fn translate(&self, kind: &dyn Kind, error: &ValidationError<'_>, problems: &mut Vec<Problem>) {
        let path = parts(error.instance_path().as_str());
        let name = kind.name();
        let subject = if path.is_empty() {
            format!("`{name}`")
        } else {
            format!("`{}` of `{name}`", dotted(&path))
        };
        let found = describe(error.instance());
        let mut simple = |wants: String| {
            problems.push(Problem::new(
                path.clone(),
                format!("{subject} {wants}, not {found}"),
            ));
        };
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                let allowed = self.allowed(kind, error, &path);
                problems.extend(
                    unexpected
                        .iter()
                        .map(|key| unknown_key(&subject, &path, key, &allowed)),
                );
            }
            ValidationErrorKind::Required { property } => {
                let property = property.as_str().unwrap_or_default();
                let mut problem =
                    Problem::new(path.clone(), format!("{subject} lacks `{property}`"));
                problem.lacks = path.is_empty().then(|| property.to_owned());
                problem.help = Some(format!("add `{property}: VALUE`"));
                problems.push(problem);
            }
            ValidationErrorKind::Type { kind } => simple(format!("takes {}", type_words(kind))),
            ValidationErrorKind::Enum { options } => {
                let options = options.as_array().map_or(&[][..], Vec::as_slice);
                problems.push(choice(
                    &subject,
                    path,
                    error.instance(),
                    options.iter().collect(),
                ));
            }
            ValidationErrorKind::Constant { expected_value } => {
                problems.push(choice(
                    &subject,
                    path,
                    error.instance(),
                    vec![expected_value],
                ));
            }
            ValidationErrorKind::Minimum { limit } => simple(format!("is at least {limit}")),
            ValidationErrorKind::Maximum { limit } => simple(format!("is at most {limit}")),
            ValidationErrorKind::ExclusiveMinimum { limit } => simple(format!("is above {limit}")),
            ValidationErrorKind::ExclusiveMaximum { limit } => simple(format!("is below {limit}")),
            ValidationErrorKind::MinItems { limit } => {
                simple(format!("has at least {limit} items"))
            }
            ValidationErrorKind::MaxItems { limit } => simple(format!("has at most {limit} items")),
            ValidationErrorKind::Pattern { pattern } => simple(format!("matches `{pattern}`")),
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context }
            | ValidationErrorKind::OneOfMultipleValid { context } => {
                self.alternatives(kind, error, context, &subject, path, problems);
            }
            _ => problems.push(Problem::new(path, format!("{subject}: {error}"))),
        }
    }

    /// A value that fits none of several forms: what would fit, or what is wrong with the form that is meant.
    fn alternatives(
        &self,
        kind: &dyn Kind,
        error: &ValidationError<'_>,
        context: &[Vec<ValidationError<'static>>],
        subject: &str,
        path: Vec<String>,
        problems: &mut Vec<Problem>,
    ) {
        let depth = path.len();
        // A form is out of question if the value has another type, or another tag, than it wants.
        let out = |error: &ValidationError<'_>| match error.kind() {
            ValidationErrorKind::Type { .. } => {
                parts(error.instance_path().as_str()).len() == depth
            }
            ValidationErrorKind::Constant { .. } | ValidationErrorKind::Enum { .. } => {
                parts(error.instance_path().as_str()).len() <= depth + 1
            }
            _ => false,
        };
        let mut meant: Vec<_> = context
            .iter()
            .filter(|errors| !errors.iter().any(out))
            .collect();
        if meant.len() > 1 {
            // Forms that are told apart by their one key, such as `{iou: ...}` and `{regex: ...}`.
            let key = |errors: &&&Vec<ValidationError<'_>>| {
                errors.iter().find_map(|error| match error.kind() {
                    ValidationErrorKind::Required { property }
                        if parts(error.instance_path().as_str()).len() == depth =>
                    {
                        property.as_str().map(str::to_owned)
                    }
                    _ => None,
                })
            };
            let keys: Vec<String> = meant.iter().filter_map(|errors| key(&errors)).collect();
            if keys.len() == meant.len() {
                let written = error.instance().as_object().into_iter().flatten();
                problems.extend(written.map(|(name, _)| unknown_key(subject, &path, name, &keys)));
                return;
            }
            meant.retain(|errors| key(&errors).is_none());
        }
        if let [errors] = meant.as_slice() {
            errors
                .iter()
                .for_each(|error| self.translate(kind, error, problems));
            return;
        }
        let mut words = Vec::new();
        let mut options: Vec<(Vec<String>, Value)> = Vec::new();
        for error in context.iter().flatten() {
            match error.kind() {
                ValidationErrorKind::Constant { expected_value } => {
                    options.push((
                        parts(error.instance_path().as_str()),
                        (**expected_value).clone(),
                    ));
                }
                ValidationErrorKind::Enum { options: values } => {
                    let at = parts(error.instance_path().as_str());
                    options.extend(
                        values
                            .as_array()
                            .into_iter()
                            .flatten()
                            .map(|value| (at.clone(), value.clone())),
                    );
                }
                ValidationErrorKind::Type { kind } => words.push(type_words(kind)),
                _ => {}
            }
        }
        words.sort();
        words.dedup();
        let Some((at, _)) = options.iter().max_by_key(|(at, _)| at.len()).cloned() else {
            let wants = if words.is_empty() {
                "has another form".into()
            } else {
                format!("takes {}", words.join(" or "))
            };
            let message = format!("{subject} {wants}, not {}", describe(error.instance()));
            problems.push(Problem::new(path, message));
            return;
        };
        let values: Vec<&Value> = options
            .iter()
            .filter(|(other, _)| *other == at)
            .map(|(_, value)| value)
            .collect();
        let found = at[depth.min(at.len())..]
            .iter()
            .try_fold(error.instance().as_ref(), |value, part| value.get(part));
        let subject = format!("`{}` of `{}`", dotted(&at), kind.name());
        problems.push(choice(&subject, at, found.unwrap_or(&Value::Null), values));
    }

    /// Keys that the schema allows where `error` is.
    fn allowed(
        &self,
        kind: &dyn Kind,
        error: &ValidationError<'_>,
        path: &[String],
    ) -> Vec<String> {
        let schema_path = error.schema_path().as_str();
        let parent = schema_path
            .rsplit_once('/')
            .map_or("", |(parent, _)| parent);
        let properties = self
            .schema
            .pointer(parent)
            .and_then(|schema| schema.get("properties"));
        let mut allowed: Vec<String> = properties
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect();
        if path.is_empty() {
            allowed.splice(
                0..0,
                kind.inputs().iter().map(|input| input.name.to_owned()),
            );
        }
        allowed
    }
}

fn unknown_key(subject: &str, path: &[String], key: &str, allowed: &[String]) -> Problem {
    let mut path = path.to_vec();
    path.push(key.to_owned());
    let mut problem = Problem::new(path, format!("{subject} has no `{key}`"));
    problem.on_key = true;
    let names = || allowed.iter().map(String::as_str);
    problem.note = Some(if allowed.is_empty() {
        "it has no params".into()
    } else {
        format!("it has {}", quoted_list(names()))
    });
    problem.help = did_you_mean(key, names());
    problem
}

fn choice(subject: &str, path: Vec<String>, found: &Value, mut options: Vec<&Value>) -> Problem {
    options.dedup();
    let texts: Vec<String> = options
        .iter()
        .map(|option| crate::study::plain(option))
        .collect();
    let names = || texts.iter().map(String::as_str);
    let wants = if texts.len() == 1 { "is" } else { "is one of" };
    let mut problem = Problem::new(
        path,
        format!(
            "{subject} {wants} {}, not {}",
            quoted_list(names()),
            describe(found)
        ),
    );
    problem.help = found.as_str().and_then(|text| did_you_mean(text, names()));
    problem
}

fn type_words(kind: &TypeKind) -> String {
    let word = |name: &str| match name {
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "text",
        "boolean" => "`true` or `false`",
        "array" => "a list",
        "object" => "a map",
        _ => "null",
    };
    match kind {
        TypeKind::Single(single) => word(&single.to_string()).to_owned(),
        TypeKind::Multiple(set) => {
            // Null stands for "not set", which nobody writes by mistake.
            let words: Vec<&str> = set
                .iter()
                .map(|kind| word(&kind.to_string()))
                .filter(|word| *word != "null")
                .collect();
            words.join(" or ")
        }
    }
}

/// `a.b[0]`.
fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if part.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            text = format!("{text}[{part}]");
        } else {
            text = if text.is_empty() {
                part.clone()
            } else {
                format!("{text}.{part}")
            };
        }
    }
    text
}

/// The parts of a JSON pointer.
fn parts(pointer: &str) -> Vec<String> {
    pointer
        .split('/')
        .skip(1)
        .map(|part| part.replace("~1", "/").replace("~0", "~"))
        .collect()
}

//! What a JSON Schema finds wrong, in the words of the spec.

use jsonschema::error::{TypeKind, ValidationError, ValidationErrorKind};
use serde_json::Value;

use super::problem::{Problem, dotted};
use super::tree::describe;
use crate::diagnostic::{did_you_mean, quoted_list};
use crate::stage::Kind;

/// The mistakes that one form of several has in a value.
type Form = Vec<ValidationError<'static>>;

/// Turns the schema's errors into problems.
pub(super) struct Translator<'a> {
    kind: &'a dyn Kind,
    schema: &'a Value,
    /// What was found so far.
    pub(super) problems: Vec<Problem>,
}

impl<'a> Translator<'a> {
    pub(super) fn new(kind: &'a dyn Kind, schema: &'a Value) -> Self {
        Self {
            kind,
            schema,
            problems: Vec::new(),
        }
    }

    /// `lora.rank` of `sft`, in backquotes.
    fn subject(&self, path: &[String]) -> String {
        let name = self.kind.decl().name;
        if path.is_empty() {
            format!("`{name}`")
        } else {
            format!("`{}` of `{name}`", dotted(path))
        }
    }

    /// Adds what `error` says.
    pub(super) fn translate(&mut self, error: &ValidationError<'_>) {
        let path = place(error);
        let subject = self.subject(&path);
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                let allowed = self.allowed(error, &path);
                let unknown = |key: &String| unknown_key(&subject, &path, key, &allowed);
                self.problems.extend(unexpected.iter().map(unknown));
            }
            ValidationErrorKind::Required { property } => {
                let property = property.as_str().unwrap_or_default();
                let message = format!("{subject} lacks `{property}`");
                let mut problem = Problem::new(path.clone(), message);
                problem.lacks = path.is_empty().then(|| property.to_owned());
                problem.help = Some(format!("add `{property}: VALUE`"));
                self.problems.push(problem);
            }
            ValidationErrorKind::Enum { options } => {
                let options = options.as_array().into_iter().flatten().collect();
                let problem = choice(&subject, path, error.instance(), options);
                self.problems.push(problem);
            }
            ValidationErrorKind::Constant { expected_value } => {
                let problem = choice(&subject, path, error.instance(), vec![expected_value]);
                self.problems.push(problem);
            }
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context }
            | ValidationErrorKind::OneOfMultipleValid { context } => {
                self.alternatives(error, context);
            }
            other => {
                let message = match wants(other) {
                    Some(wants) => format!("{subject} {wants}, not {}", describe(error.instance())),
                    None => format!("{subject}: {error}"),
                };
                self.problems.push(Problem::new(path, message));
            }
        }
    }

    /// A value that fits none of several forms: what would fit, or what is wrong with the form that is meant.
    fn alternatives(&mut self, error: &ValidationError<'_>, forms: &[Form]) {
        let path = place(error);
        let mut meant: Vec<&Form> = forms
            .iter()
            .filter(|form| !form.iter().any(|error| is_another_form(error, path.len())))
            .collect();
        if meant.len() > 1 {
            let keys: Vec<String> = meant
                .iter()
                .filter_map(|form| lacking_key(form, path.len()))
                .collect();
            if keys.len() == meant.len() {
                let subject = self.subject(&path);
                let written = error.instance().as_object().into_iter().flatten();
                let unknown = written.map(|(name, _)| unknown_key(&subject, &path, name, &keys));
                self.problems.extend(unknown);
                return;
            }
            meant.retain(|form| lacking_key(form, path.len()).is_none());
        }
        match meant.as_slice() {
            [form] => form.iter().for_each(|error| self.translate(error)),
            _ => {
                let problem = self.all_forms(error, path, forms);
                self.problems.push(problem);
            }
        }
    }

    /// All that the forms would take.
    fn all_forms(&self, error: &ValidationError<'_>, path: Vec<String>, forms: &[Form]) -> Problem {
        let options: Vec<(Vec<String>, &Value)> = forms.iter().flatten().flat_map(values).collect();
        // The innermost tag tells most.
        let Some((at, _)) = options.iter().max_by_key(|(at, _)| at.len()) else {
            let wants = types(forms).map_or_else(
                || "has another form".to_owned(),
                |types| format!("takes {types}"),
            );
            let (subject, found) = (self.subject(&path), describe(error.instance()));
            return Problem::new(path, format!("{subject} {wants}, not {found}"));
        };
        let here = options.iter().filter(|(other, _)| other == at);
        let found = at[path.len().min(at.len())..]
            .iter()
            .try_fold(error.instance().as_ref(), |value, part| value.get(part));
        choice(
            &self.subject(at),
            at.clone(),
            found.unwrap_or(&Value::Null),
            here.map(|(_, value)| *value).collect(),
        )
    }

    /// Keys that the schema allows where `error` is.
    fn allowed(&self, error: &ValidationError<'_>, path: &[String]) -> Vec<String> {
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
            let inputs = self.kind.decl().inputs;
            allowed.splice(0..0, inputs.iter().map(|input| input.name.to_owned()));
        }
        allowed
    }
}

/// What a single rule wants of a value.
fn wants(kind: &ValidationErrorKind) -> Option<String> {
    Some(match kind {
        ValidationErrorKind::Type { kind } => format!("takes {}", type_words(kind)),
        ValidationErrorKind::Minimum { limit } => format!("is at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("is at most {limit}"),
        ValidationErrorKind::ExclusiveMinimum { limit } => format!("is above {limit}"),
        ValidationErrorKind::ExclusiveMaximum { limit } => format!("is below {limit}"),
        ValidationErrorKind::MinItems { limit } => format!("has at least {limit} items"),
        ValidationErrorKind::MaxItems { limit } => format!("has at most {limit} items"),
        ValidationErrorKind::Pattern { pattern } => format!("matches `{pattern}`"),
        _ => return None,
    })
}

/// Whether the value, `depth` below `with:`, has another type or another tag than the form wants, which then is out
/// of question.
fn is_another_form(error: &ValidationError<'_>, depth: usize) -> bool {
    match error.kind() {
        ValidationErrorKind::Type { .. } => place(error).len() == depth,
        ValidationErrorKind::Constant { .. } | ValidationErrorKind::Enum { .. } => {
            place(error).len() <= depth + 1
        }
        _ => false,
    }
}

/// The key that the value lacks for this form: some are told apart by their one key, such as `{iou: ...}` and
/// `{regex: ...}`.
fn lacking_key(form: &Form, depth: usize) -> Option<String> {
    form.iter().find_map(|error| match error.kind() {
        ValidationErrorKind::Required { property } if place(error).len() == depth => {
            property.as_str().map(str::to_owned)
        }
        _ => None,
    })
}

/// The values that `error` would let pass, with their place.
fn values<'e>(error: &'e ValidationError<'static>) -> Vec<(Vec<String>, &'e Value)> {
    let values: Vec<&Value> = match error.kind() {
        ValidationErrorKind::Constant { expected_value } => vec![expected_value],
        ValidationErrorKind::Enum { options } => options.as_array().into_iter().flatten().collect(),
        _ => Vec::new(),
    };
    values
        .into_iter()
        .map(|value| (place(error), value))
        .collect()
}

/// The types that forms take, if they say any.
fn types(forms: &[Form]) -> Option<String> {
    let errors = forms.iter().flatten();
    let mut words: Vec<String> = errors
        .filter_map(|error| match error.kind() {
            ValidationErrorKind::Type { kind } => Some(type_words(kind)),
            _ => None,
        })
        .collect();
    words.sort();
    words.dedup();
    (!words.is_empty()).then(|| words.join(" or "))
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
        .map(|option| crate::text::plain(option))
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

/// Keys and indices from `with:` to where `error` is.
fn place(error: &ValidationError<'_>) -> Vec<String> {
    parts(error.instance_path().as_str())
}

/// The parts of a JSON pointer.
fn parts(pointer: &str) -> Vec<String> {
    pointer
        .split('/')
        .skip(1)
        .map(|part| part.replace("~1", "/").replace("~0", "~"))
        .collect()
}

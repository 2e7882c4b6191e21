//! A regular expression in a spec, and the reward that extracts with it.

use std::borrow::Cow;

use regex::Regex;
use regex_syntax::hir::{Hir, HirKind};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::error::RewardError;
use super::exact::{normalise, python_strip};

/// Settings of `regex`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extraction {
    /// Finds the answer in the model's text: the first match's first group, or the whole match where there
    /// is no group. `<answer>(.*?)</answer>` for example. Case and `.` follow the Rust regex crate. A right answer
    /// in which it finds something counts as what it finds.
    pub pattern: Pattern,
}

/// A regular expression, checked when the spec is read and compiled once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Regex);

impl Pattern {
    /// The first match's first group, or the whole match where the pattern has no group.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        let captures = self.0.captures(text)?;
        captures
            .iter()
            .take(2)
            .last()
            .flatten()
            .map(|found| found.as_str())
    }
}

/// What the pattern finds in the right answer, or the right answer as it stands where it finds nothing.
fn expected<'t>(answer: &'t str, pattern: &Pattern) -> &'t str {
    pattern.find(answer).unwrap_or(answer)
}

/// Whether both sides have the same text in them.
pub(super) fn right(completion: &str, answer: &str, pattern: &Pattern) -> bool {
    pattern
        .find(completion)
        .is_some_and(|found| normalise(found) == normalise(expected(answer, pattern)))
}

/// Whether some answer can be right: the pattern has to be able to find this one.
pub(super) fn check(answer: &str, pattern: &Pattern) -> Result<(), RewardError> {
    if normalise(expected(answer, pattern)).is_empty() {
        return Err(RewardError::NoAnswer);
    }
    if pattern.find(answer).is_some() || can_find(pattern, answer) {
        return Ok(());
    }
    Err(RewardError::Unextractable {
        answer: answer.to_owned(),
        pattern: pattern.0.as_str().to_owned(),
    })
}

/// Whether what the pattern takes out of a text can be `answer`, in whatever case.
fn can_find(pattern: &Pattern, answer: &str) -> bool {
    let Ok(whole) = regex_syntax::parse(pattern.0.as_str()) else {
        return true;
    };
    let taken = first_group(&whole).unwrap_or(&whole);
    // What a pattern's syntax tree is written as is a pattern again, but it may be larger than the crate's limit.
    let Ok(alone) = Regex::new(&format!("(?i)^(?:{taken})$")) else {
        return true;
    };
    let bare = python_strip(answer);
    [answer, bare, bare.trim_matches('.')]
        .iter()
        .any(|form| alone.is_match(form))
}

fn first_group(hir: &Hir) -> Option<&Hir> {
    match hir.kind() {
        HirKind::Capture(group) => Some(&group.sub),
        HirKind::Repetition(repeated) => first_group(&repeated.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().find_map(first_group),
        _ => None,
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Regex::new(&text)
            .map(Self)
            .map_err(|error| format!("not a regular expression: {error}"))
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.as_str().to_owned()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "regex"})
    }
}

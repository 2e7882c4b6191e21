//! Rewards: is an answer right?
//!
//! In a spec a reward is its name, `reward: exact`, or its name with settings, `reward: {iou: {threshold: 0.7}}`.
//!
//! | name | an answer is right if |
//! |---|---|
//! | `exact` | it equals the right answer once surrounding space, full stops and case are taken away |
//! | `iou` | the first box in it overlaps the right box by at least `threshold` |
//! | `regex` | what `pattern` finds in it is `exact`ly what it finds in the right answer |
//! | `choice` | it names the right option, by its letter or by its text |
//! | `numeric` | its last number is the right one within `tolerance` or `relative` |
//! | `program` | a program of the user's says so: [`Grader`] asks it |
//!
//! `docs/rewards.md` says what each takes for right. A right answer always scores 1 against itself, or
//! [`Reward::check`] refuses it.

mod boxes;
mod choice;
mod error;
mod exact;
mod figures;
mod form;
mod number;
mod own;
mod pattern;
mod program;
mod scope;

pub use boxes::{Iou, Notation, iou};
pub use error::RewardError;
pub use exact::{compose, normalise, python_strip};
pub use form::Form;
pub use number::Tolerance;
pub use own::{Own, OwnReward, add};
pub use pattern::{Extraction, Pattern};
pub use program::{Asked, Grader};

use std::borrow::Cow;
use std::path::Path;

use dcsft_engine::command::FilterProgram;
use dcsft_engine::stage::{FileParam, ParamProblem};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

/// How an answer is scored: 1 if right, else 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reward {
    /// Equal after normalisation; see [`normalise`].
    #[default]
    Exact,
    /// Intersection over union of boxes; see [`iou`].
    Iou(Iou),
    /// Equal after extraction with a regular expression.
    Regex(Extraction),
    /// The right option of a multiple-choice question.
    Choice,
    /// The right number.
    Numeric(Tolerance),
    /// What a program says, whatever number that is; 1 is right.
    Program(FilterProgram),
    /// A reward that another crate has [`add`]ed.
    Own(Own),
}

/// The field of a reward's own files, where the reward stands in `reward:`.
pub(crate) const FILES: &[&str] = &["reward", "program", "files"];

impl Reward {
    /// Whether a program of the user's scores.
    pub fn is_program(&self) -> bool {
        matches!(self, Self::Program(_))
    }

    /// The files of a reward that stands in `reward:`.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn files(&self, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        match self {
            Self::Program(program) => program.files(&"reward.program".into(), root),
            _ => Ok(Vec::new()),
        }
    }

    /// The name in specs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Iou(_) => "iou",
            Self::Regex(_) => "regex",
            Self::Choice => "choice",
            Self::Numeric(_) => "numeric",
            Self::Program(_) => "program",
            Self::Own(own) => own.name(),
        }
    }

    /// As the stages score: [`Reward::score`] with both texts in one Unicode form (NFC). Of a program only a [`Grader`]
    /// can have the reward; here it is NaN.
    pub fn grade(&self, completion: &str, answer: &str) -> f32 {
        self.score(&compose(completion), &compose(answer))
    }

    /// 1 if `completion` is right where `answer` is the right answer, else 0, on the texts as they stand. Where
    /// [`Reward::check`] would complain about the right answer, no completion is right.
    pub fn score(&self, completion: &str, answer: &str) -> f32 {
        let right = match self {
            Self::Exact => normalise(completion) == normalise(answer),
            Self::Iou(settings) => boxes::right(completion, answer, settings),
            Self::Regex(Extraction { pattern }) => pattern::right(completion, answer, pattern),
            Self::Choice => choice::right(completion, answer),
            Self::Numeric(tolerance) => number::right(completion, answer, tolerance),
            Self::Program(_) => return f32::NAN,
            Self::Own(own) => return own.score(completion, answer),
        };
        f32::from(u8::from(right))
    }

    /// Whether `answer` can be a right answer at all, so that it scores 1 against itself: worth asking of a whole set
    /// before it is used.
    ///
    /// # Errors
    /// Says what is wrong with the answer.
    pub fn check(&self, answer: &str) -> Result<(), RewardError> {
        let answer = &*compose(answer);
        match self {
            Self::Exact if normalise(answer).is_empty() => return Err(RewardError::NoAnswer),
            Self::Exact => {}
            // What it takes for right, it alone knows.
            Self::Program(_) => return Ok(()),
            Self::Own(own) => return own.check(answer),
            Self::Regex(Extraction { pattern }) => return pattern::check(answer, pattern),
            Self::Iou(settings) => boxes::check(answer, settings)?,
            Self::Choice => choice::check(answer)?,
            Self::Numeric(_) => number::check(answer)?,
        }
        if self.score(answer, answer) >= 1.0 {
            Ok(())
        } else {
            Err(RewardError::NeverRight(answer.to_owned()))
        }
    }

    /// Mistakes in the settings that types do not catch: (dotted field, what would be right).
    pub fn problems(&self) -> Vec<(String, String)> {
        match self {
            Self::Iou(Iou { threshold, .. }) if !(*threshold > 0.0 && *threshold <= 1.0) => vec![(
                "iou.threshold".into(),
                format!("{threshold} is not an overlap; write a number above 0 and at most 1"),
            )],
            Self::Numeric(Tolerance {
                tolerance,
                relative,
            }) => [("tolerance", tolerance), ("relative", relative)]
                .into_iter()
                .filter(|(_, value)| !(**value >= 0.0 && value.is_finite()))
                .map(|(field, value)| {
                    (
                        format!("numeric.{field}"),
                        format!("{value} is not a tolerance; write a number from 0"),
                    )
                })
                .collect(),
            Self::Program(program) => {
                let problems = program.problems().into_iter();
                problems
                    .map(|(field, message)| (format!("program.{field}"), message))
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The same choice as [`Reward`], for the derived parser of the form with settings.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Parsed {
    Iou(Iou),
    Regex(Extraction),
    Numeric(Tolerance),
    Program(FilterProgram),
    Own(Own),
}

/// The form with settings, for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes the forms in the schema")]
enum WithSettings {
    /// The first box overlaps the right one.
    Iou(Iou),
    /// A regular expression finds the right answer.
    Regex(Extraction),
    /// The last number is the right one.
    Numeric(Tolerance),
    /// A program of yours says what answers are worth.
    Program(FilterProgram),
}

/// Rewards that need no settings.
#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes the names in the schema")]
enum Name {
    /// Equal but for surrounding space, full stops and case.
    Exact,
    /// The first box overlaps the right one by at least one half.
    Iou,
    /// The right option, by its letter or its text.
    Choice,
    /// The last number is exactly the right one.
    Numeric,
}

impl JsonSchema for Reward {
    fn schema_name() -> Cow<'static, str> {
        "Reward".into()
    }

    /// All names and all forms with settings side by side, so that a mistake is told from what it comes nearest to.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let forms = [
            Name::json_schema(generator),
            WithSettings::json_schema(generator),
        ];
        let alternatives = forms
            .iter()
            .filter_map(|form| form.get("oneOf")?.as_array())
            .flatten();
        let own = own::names();
        let own = own
            .iter()
            .map(|name| json!({"type": "string", "const": name}));
        json_schema!({
            "description": "How an answer is scored: a name, or a name with settings.",
            "anyOf": alternatives.cloned().chain(own).collect::<Vec<_>>(),
        })
    }
}

impl<'de> Deserialize<'de> for Reward {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parser;
        impl<'de> Visitor<'de> for Parser {
            type Value = Reward;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("`exact`, `iou`, `choice`, `numeric`, or one of {iou: ...}, {regex: ...}, {numeric: ...}, {program: ...}")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Reward, E> {
                match name {
                    "exact" => Ok(Reward::Exact),
                    "iou" => Ok(Reward::Iou(Iou::default())),
                    "choice" => Ok(Reward::Choice),
                    "numeric" => Ok(Reward::Numeric(Tolerance::default())),
                    "regex" => Err(E::custom(
                        "`regex` needs a pattern: {regex: {pattern: ...}}",
                    )),
                    "program" => Err(E::custom(
                        "`program` needs a program: {program: {argv: [...]}}",
                    )),
                    other => Own::find(other).map(Reward::Own).ok_or_else(|| {
                        E::unknown_variant(
                            other,
                            &["exact", "iou", "regex", "choice", "numeric", "program"],
                        )
                    }),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Reward, A::Error> {
                let parsed = Parsed::deserialize(MapAccessDeserializer::new(map))
                    .map_err(A::Error::custom)?;
                Ok(match parsed {
                    Parsed::Iou(settings) => Reward::Iou(settings),
                    Parsed::Regex(settings) => Reward::Regex(settings),
                    Parsed::Numeric(settings) => Reward::Numeric(settings),
                    Parsed::Program(program) => Reward::Program(program),
                    Parsed::Own(own) => Reward::Own(own),
                })
            }
        }
        deserializer.deserialize_any(Parser)
    }
}

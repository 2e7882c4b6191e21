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
mod pattern;
mod scope;

pub use boxes::{Iou, Notation, iou};
pub use error::RewardError;
pub use exact::{compose, normalise, python_strip};
pub use form::Form;
pub use number::Tolerance;
pub use pattern::{Extraction, Pattern};

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

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
}

impl Reward {
    /// The name in specs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Iou(_) => "iou",
            Self::Regex(_) => "regex",
            Self::Choice => "choice",
            Self::Numeric(_) => "numeric",
        }
    }

    /// As the stages score: [`Reward::score`] with both texts in one Unicode form (NFC).
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
            _ => Vec::new(),
        }
    }
}

/// The same choice as [`Reward`], for the derived parser of the form with settings.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum WithSettings {
    /// The first box overlaps the right one.
    Iou(Iou),
    /// A regular expression finds the right answer.
    Regex(Extraction),
    /// The last number is the right one.
    Numeric(Tolerance),
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
        json_schema!({
            "description": "How an answer is scored: a name, or a name with settings.",
            "anyOf": alternatives.collect::<Vec<_>>(),
        })
    }
}

impl<'de> Deserialize<'de> for Reward {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parser;
        impl<'de> Visitor<'de> for Parser {
            type Value = Reward;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("`exact`, `iou`, `choice`, `numeric`, or one of {iou: ...}, {regex: ...}, {numeric: ...}")
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
                    other => Err(E::unknown_variant(
                        other,
                        &["exact", "iou", "regex", "choice", "numeric"],
                    )),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Reward, A::Error> {
                let parsed = WithSettings::deserialize(MapAccessDeserializer::new(map))
                    .map_err(A::Error::custom)?;
                Ok(match parsed {
                    WithSettings::Iou(settings) => Reward::Iou(settings),
                    WithSettings::Regex(settings) => Reward::Regex(settings),
                    WithSettings::Numeric(settings) => Reward::Numeric(settings),
                })
            }
        }
        deserializer.deserialize_any(Parser)
    }
}

//! One row of a list of answers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::dataset::cell::Cell;
use crate::dataset::names::ImageRef;

/// What a row can have.
pub(super) const NAMES: [&str; 12] = [
    "id",
    "prompt",
    "image",
    "images",
    "text",
    "reward",
    "tokens",
    "logprobs",
    "finished",
    "finish_reason",
    "generation",
    "completion",
];

/// Why a row is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    /// It is no JSON.
    Syntax,
    /// A field is missing or has another type.
    Layout,
    /// No sample of the set is meant.
    UnknownSample,
    /// Several samples of the set may be meant.
    Ambiguous,
    /// Nobody says what the answer is worth.
    NoReward,
    /// The reward cannot use the sample's right answer.
    Answer,
    /// Its sample has too few answers.
    TooFew,
    /// Its sample has enough answers without it.
    Surplus,
}

impl Reason {
    /// The name, as in `dropped.jsonl`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Layout => "layout",
            Self::UnknownSample => "unknown_sample",
            Self::Ambiguous => "ambiguous",
            Self::NoReward => "no_reward",
            Self::Answer => "answer",
            Self::TooFew => "too_few",
            Self::Surplus => "surplus",
        }
    }
}

/// A row that is left out.
#[derive(Clone, Debug)]
pub(super) struct Left {
    pub(super) reason: Reason,
    /// For people.
    pub(super) detail: String,
}

impl Left {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// Whom a row answers.
pub(super) enum Asked {
    /// The sample with this content ID.
    Id(String),
    /// The sample with this question, about these images.
    Question(String, Vec<ImageRef>),
}

/// An answer.
pub(super) struct Row {
    pub(super) asked: Asked,
    pub(super) text: String,
    pub(super) reward: Option<f32>,
    pub(super) tokens: Vec<u32>,
    pub(super) logprobs: Vec<f32>,
    pub(super) finished: bool,
    pub(super) generation: Option<u64>,
}

impl Row {
    /// Reads a row; `fields` says what the list calls them.
    pub(super) fn read(record: &Cell, fields: &BTreeMap<String, String>) -> Result<Self, Left> {
        if !matches!(record, Cell::Record(_)) {
            return Err(wrong(format!(
                "the row is {}, not an object",
                record.kind()
            )));
        }
        let fields = Fields { record, fields };
        let text = match (fields.text("text")?, fields.text("completion")?) {
            (Some(text), None) | (None, Some(text)) => text,
            (Some(_), Some(_)) => {
                return Err(wrong(
                    "`text` and `completion` are one thing; leave one out",
                ));
            }
            (None, None) => {
                return Err(wrong(format!(
                    "the row has no `text`; it has {}",
                    fields.names()
                )));
            }
        };
        let asked = match (fields.text("id")?, fields.text("prompt")?) {
            (Some(id), _) => Asked::Id(id),
            (None, Some(prompt)) => Asked::Question(prompt, fields.images()?),
            (None, None) => {
                let names = fields.names();
                return Err(wrong(format!(
                    "the row has neither `id` nor `prompt`; it has {names}"
                )));
            }
        };
        let tokens: Vec<u32> = fields.list("tokens", "a token's id", |text| text.parse().ok())?;
        let logprobs: Vec<f32> = fields.list("logprobs", "a log-probability", |text| {
            text.parse()
                .ok()
                .filter(|value: &f32| value.is_finite() && *value <= 0.0)
        })?;
        if !tokens.is_empty() && !logprobs.is_empty() && tokens.len() != logprobs.len() {
            return Err(wrong(format!(
                "{} tokens have {} log-probabilities",
                tokens.len(),
                logprobs.len()
            )));
        }
        Ok(Self {
            asked,
            text,
            reward: fields.reward()?,
            tokens,
            logprobs,
            finished: fields.finished()?,
            generation: fields.whole("generation")?,
        })
    }
}

fn wrong(detail: impl Into<String>) -> Left {
    Left::new(Reason::Layout, detail)
}

/// The fields of a row under the names that they have here.
struct Fields<'a> {
    record: &'a Cell,
    fields: &'a BTreeMap<String, String>,
}

impl Fields<'_> {
    fn called<'n>(&'n self, name: &'n str) -> &'n str {
        self.fields.get(name).map_or(name, String::as_str)
    }

    fn get(&self, name: &str) -> Option<&Cell> {
        let value = self.record.get(self.called(name))?;
        (*value != Cell::Null).then_some(value)
    }

    fn names(&self) -> String {
        crate::dataset::cell::fields(self.record).unwrap_or_default()
    }

    fn mistyped(&self, name: &str, wanted: &str, found: &Cell) -> Left {
        wrong(format!(
            "`{}` is {}, not {wanted}",
            self.called(name),
            found.kind()
        ))
    }

    fn text(&self, name: &str) -> Result<Option<String>, Left> {
        match self.get(name) {
            None => Ok(None),
            Some(Cell::Text(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.mistyped(name, "a text", other)),
        }
    }

    fn whole(&self, name: &str) -> Result<Option<u64>, Left> {
        match self.get(name) {
            None => Ok(None),
            Some(Cell::Number(text)) if text.parse::<u64>().is_ok() => Ok(text.parse().ok()),
            Some(other) => Err(self.mistyped(name, "a whole number", other)),
        }
    }

    fn reward(&self) -> Result<Option<f32>, Left> {
        let finite = |text: &String| text.parse::<f32>().ok().filter(|value| value.is_finite());
        match self.get("reward") {
            None => Ok(None),
            Some(Cell::Bool(right)) => Ok(Some(f32::from(u8::from(*right)))),
            Some(Cell::Number(text)) => finite(text)
                .map(Some)
                .ok_or_else(|| wrong(format!("the reward {text} is out of range"))),
            Some(other) => Err(self.mistyped("reward", "a number", other)),
        }
    }

    /// Whether the answer ended by itself. One of which nothing is said did.
    fn finished(&self) -> Result<bool, Left> {
        match (self.get("finished"), self.text("finish_reason")?) {
            (Some(Cell::Bool(finished)), _) => Ok(*finished),
            (Some(other), _) => Err(self.mistyped("finished", "true or false", other)),
            (None, reason) => Ok(reason.is_none_or(|reason| reason != "length")),
        }
    }

    fn list<T>(
        &self,
        name: &str,
        wanted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, Left> {
        let items = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Cell::List(items)) => items,
            Some(other) => return Err(self.mistyped(name, "a list", other)),
        };
        let item = |item: &Cell| match item {
            Cell::Number(text) => read(text).ok_or_else(|| {
                wrong(format!(
                    "`{}` holds {text}, which is not {wanted}",
                    self.called(name)
                ))
            }),
            other => Err(wrong(format!(
                "`{}` holds {}, not {wanted}",
                self.called(name),
                other.kind()
            ))),
        };
        items.iter().map(item).collect()
    }

    fn images(&self) -> Result<Vec<ImageRef>, Left> {
        let cells = match (self.get("images"), self.get("image")) {
            (Some(Cell::List(items)), None) => items.clone(),
            (None, Some(one)) => vec![one.clone()],
            (None, None) => Vec::new(),
            (Some(_), Some(_)) => {
                return Err(wrong("`image` and `images` are one thing; leave one out"));
            }
            (Some(other), None) => return Err(self.mistyped("images", "a list", other)),
        };
        let image = |cell| ImageRef::of(cell).map_err(|dropped| wrong(dropped.detail));
        cells.into_iter().map(image).collect()
    }
}

//! From a JSON record to prompt, answer and image names.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::drops::{DropReason, Dropped};
use crate::data::IMAGE_PLACEHOLDER;

/// How the records of a list are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Told from the records' fields.
    #[default]
    Auto,
    /// `messages` (role, content) and `images`: ms-swift, and the official SFT lists.
    Messages,
    /// `problem`, `solution`, `image`: the official RL and evaluation lists. The image stands first where
    /// the problem does not say.
    Problem,
    /// `query`, `response`, `images`: older ms-swift.
    Query,
    /// `conversations` (from, value) and `images` or `image`: LLaMA-Factory's sharegpt, LLaVA.
    Sharegpt,
    /// `instruction`, `input`, `output`, `images`: LLaMA-Factory's alpaca.
    Alpaca,
}

/// The layouts in the order in which they are tried, with their fields.
pub(super) const KNOWN: [(Layout, &str); 5] = [
    (Layout::Messages, "messages, images"),
    (Layout::Problem, "problem, solution, image"),
    (Layout::Query, "query, response, images"),
    (Layout::Sharegpt, "conversations, images"),
    (Layout::Alpaca, "instruction, output, images"),
];

/// A record as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct RawRecord {
    /// The question with its placeholders.
    pub prompt: String,
    /// The right answer.
    pub answer: String,
    /// Image names, in order.
    pub images: Vec<String>,
    /// Fields that the layout does not know.
    pub meta: BTreeMap<String, Value>,
}

/// Whether an image's name is a link or inline data instead of a file's name.
pub(super) fn is_remote(name: &str) -> bool {
    ["http://", "https://", "data:", "s3://"]
        .iter()
        .any(|scheme| name.starts_with(scheme))
}

/// The layout of a record, by the field that only it has.
pub(super) fn detect(record: &Value) -> Option<Layout> {
    let first = |fields: &str| {
        fields
            .split(',')
            .next()
            .is_some_and(|field| record.get(field).is_some())
    };
    KNOWN
        .iter()
        .find(|(_, fields)| first(fields))
        .map(|(layout, _)| *layout)
}

/// Takes a record apart.
pub(super) fn read(layout: Layout, record: Value) -> Result<RawRecord, Dropped> {
    let Value::Object(record) = record else {
        return Err(wrong(format!(
            "the record is {}, not an object",
            kind(&record)
        )));
    };
    let mut fields = Fields(record);
    let (prompt, answer) = match layout {
        Layout::Messages => fields.turns("messages", "role", "content")?,
        Layout::Sharegpt => fields.turns("conversations", "from", "value")?,
        Layout::Problem | Layout::Auto => {
            let problem = fields.text("problem")?;
            let first = if problem.contains(IMAGE_PLACEHOLDER) {
                ""
            } else {
                IMAGE_PLACEHOLDER
            };
            (format!("{first}{problem}"), fields.text("solution")?)
        }
        Layout::Query => (fields.text("query")?, fields.text("response")?),
        Layout::Alpaca => {
            let instruction = fields.text("instruction")?;
            let input = if fields.0.contains_key("input") {
                fields.text("input")?
            } else {
                String::new()
            };
            let gap = if input.is_empty() { "" } else { "\n" };
            (format!("{instruction}{gap}{input}"), fields.text("output")?)
        }
    };
    let images = fields.images()?;
    Ok(RawRecord {
        prompt,
        answer,
        images,
        meta: fields.0.into_iter().collect(),
    })
}

/// The fields of a record that were not taken yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn take(&mut self, name: &str) -> Result<Value, Dropped> {
        self.0
            .shift_remove(name)
            .ok_or_else(|| wrong(format!("the field `{name}` is missing")))
    }

    /// A text; numbers and lists (boxes) count as their JSON text.
    fn text(&mut self, name: &str) -> Result<String, Dropped> {
        match self.take(name)? {
            Value::String(text) => Ok(text),
            number @ Value::Number(_) => Ok(number.to_string()),
            Value::Array(items) if items.iter().all(Value::is_number) => {
                let numbers: Vec<String> = items.iter().map(Value::to_string).collect();
                Ok(format!("[{}]", numbers.join(", ")))
            }
            other => Err(wrong(format!("`{name}` is {}, not text", kind(&other)))),
        }
    }

    /// `image` or `images`: a name, an object with a `path`, or a list of them.
    fn images(&mut self) -> Result<Vec<String>, Dropped> {
        let Some(value) = self
            .0
            .shift_remove("images")
            .or_else(|| self.0.shift_remove("image"))
        else {
            return Ok(Vec::new());
        };
        let items = match value {
            Value::Null => Vec::new(),
            Value::Array(items) => items,
            single => vec![single],
        };
        items
            .into_iter()
            .map(|item| match item {
                Value::String(name) => Ok(name),
                Value::Object(mut item) => match item.shift_remove("path") {
                    Some(Value::String(name)) => Ok(name),
                    _ => Err(wrong("an image is an object without `path`")),
                },
                other => Err(wrong(format!(
                    "an image is {}, not a file's name",
                    kind(&other)
                ))),
            })
            .collect()
    }

    /// One question and one answer out of a list of turns; a system text goes to the meta fields.
    fn turns(&mut self, list: &str, who: &str, what: &str) -> Result<(String, String), Dropped> {
        let turns = match self.take(list)? {
            Value::Array(turns) => turns,
            other => return Err(wrong(format!("`{list}` is {}, not a list", kind(&other)))),
        };
        let mut said: Vec<(Role, String)> = Vec::with_capacity(turns.len());
        for turn in &turns {
            let name = turn.get(who).and_then(Value::as_str).unwrap_or_default();
            let role = Role::named(name)
                .ok_or_else(|| wrong(format!("a turn of `{list}` has the `{who}` {name:?}")))?;
            let text = content(turn.get(what))
                .ok_or_else(|| wrong(format!("a turn of `{list}` has no text in `{what}`")))?;
            if role == Role::System {
                self.0.insert("system".into(), text.into());
            } else {
                said.push((role, text));
            }
        }
        match said.as_mut_slice() {
            [(Role::User, prompt), (Role::Assistant, answer)] => {
                Ok((std::mem::take(prompt), std::mem::take(answer)))
            }
            several if several.len() > 2 => {
                let detail = format!(
                    "{} turns; one question and one answer are taken",
                    several.len()
                );
                Err(Dropped::new(DropReason::SeveralTurns, detail))
            }
            _ => Err(wrong(format!(
                "`{list}` is not a question of the user and an answer of the assistant"
            ))),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    fn named(name: &str) -> Option<Self> {
        match name {
            "system" => Some(Self::System),
            "user" | "human" => Some(Self::User),
            "assistant" | "gpt" => Some(Self::Assistant),
            _ => None,
        }
    }
}

/// The text of a turn: a string, or a list of parts of type `text` and `image`.
fn content(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match part.get("type")?.as_str()? {
                "text" => part.get("text")?.as_str().map(str::to_owned),
                "image" => Some(IMAGE_PLACEHOLDER.to_owned()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn wrong(detail: impl Into<String>) -> Dropped {
    Dropped::new(DropReason::Layout, detail)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

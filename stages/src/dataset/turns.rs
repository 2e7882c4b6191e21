//! Conversations: turns of a system, a user and an assistant, their content as text or in blocks.

use std::sync::LazyLock;

use regex::Regex;

use super::cell::{Cell, fields};
use super::drops::{DropReason, Dropped};
use super::names::{ImageRef, NAMING, one_of};
use crate::data::{IMAGE_PLACEHOLDER, Said, Speaker};

/// An image named in the text, as Qwen-VL and ms-swift have it.
static IMAGE_TAG: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("(?s)<img>(.*?)</img>").expect("a constant pattern"));

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
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

/// One question, perhaps with a system message and earlier turns before it and an answer after it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Conversation {
    pub(super) system: Option<String>,
    pub(super) history: Vec<Said>,
    pub(super) prompt: String,
    pub(super) answer: Option<String>,
    /// Images that the turns themselves name, in order.
    pub(super) images: Vec<ImageRef>,
}

/// A turn as it was read.
struct Turn {
    role: Role,
    text: String,
    images: Vec<ImageRef>,
}

impl Conversation {
    /// A question of text alone, with the images that it names.
    pub(super) fn of_text(text: String) -> Self {
        let (prompt, images) = tagged(text);
        Self {
            prompt,
            images,
            ..Self::default()
        }
    }

    /// Reads the field `list`, and puts the field `more` (an answer) after it.
    pub(super) fn read(list: &str, turns: Cell, more: Vec<Cell>) -> Result<Self, Dropped> {
        let turns = match turns {
            Cell::List(turns) => turns,
            Cell::Text(text) => match super::json::nested(&text) {
                Some(Cell::List(turns)) => turns,
                _ => return Err(wrong(format!("`{list}` is a text, not a list"))),
            },
            other => return Err(wrong(format!("`{list}` is {}, not a list", other.kind()))),
        };
        let turns = turns.into_iter().chain(more);
        let turns: Vec<Turn> = turns
            .map(|turn| Turn::read(list, turn))
            .collect::<Result<_, _>>()?;
        Self::join(list, turns)
    }

    fn join(list: &str, turns: Vec<Turn>) -> Result<Self, Dropped> {
        let mut system = None;
        let mut said = Vec::new();
        for (index, turn) in turns.into_iter().enumerate() {
            match turn.role {
                Role::System if index > 0 => {
                    return Err(wrong(format!(
                        "`{list}` has a system message that is not the first turn"
                    )));
                }
                Role::System if !turn.images.is_empty() => {
                    return Err(wrong(
                        "an image is in the system message, not in the question",
                    ));
                }
                Role::System => system = Some(turn.text),
                _ => said.push(turn),
            }
        }
        let expected = [Role::User, Role::Assistant].into_iter().cycle();
        let in_turn = said
            .iter()
            .map(|turn| turn.role)
            .eq(expected.take(said.len()));
        if said.is_empty() || !in_turn {
            return Err(wrong(format!(
                "the turns of `{list}` are not questions of the user and answers of the assistant in turn"
            )));
        }
        let answers = said.iter().skip(1).step_by(2);
        if answers.into_iter().any(|turn| !turn.images.is_empty()) {
            return Err(wrong("an image is in the answer, not in the question"));
        }
        let answer = match said.len() % 2 {
            0 => said.pop().map(|turn| turn.text),
            _ => None,
        };
        let prompt = said.pop().map(|turn| (turn.text, turn.images));
        let (prompt, last) = prompt.unwrap_or_default();
        let mut images = Vec::new();
        let history = said.into_iter().map(|turn| {
            images.extend(turn.images);
            let role = match turn.role {
                Role::Assistant => Speaker::Assistant,
                _ => Speaker::User,
            };
            let content = turn.text;
            Said { role, content }
        });
        let history = history.collect();
        images.extend(last);
        Ok(Self {
            system,
            history,
            prompt,
            answer,
            images,
        })
    }

    /// Puts the turns of a field `history` before the question: pairs of question and answer, as ms-swift and
    /// LLaMA-Factory have them.
    pub(super) fn after(mut self, history: Cell) -> Result<Self, Dropped> {
        let refused = || wrong("`history` is not a list of pairs of a question and an answer");
        let Cell::List(pairs) = history else {
            return Err(refused());
        };
        if !self.history.is_empty() {
            return Err(wrong(
                "there are earlier turns in `history` and in the conversation; write them in one of the two",
            ));
        }
        let mut images = Vec::new();
        for pair in pairs {
            let Cell::List(pair) = pair else {
                return Err(refused());
            };
            let [Cell::Text(asked), Cell::Text(answered)] = pair.as_slice() else {
                return Err(refused());
            };
            let (asked, shown) = tagged(asked.clone());
            images.extend(shown);
            let turns = [
                (Speaker::User, asked),
                (Speaker::Assistant, answered.clone()),
            ];
            let said = turns.map(|(role, content)| Said { role, content });
            self.history.extend(said);
        }
        images.append(&mut self.images);
        self.images = images;
        Ok(self)
    }
}

impl Turn {
    /// A turn of `role` and `content`, or of `from` and `value`.
    fn read(list: &str, turn: Cell) -> Result<Self, Dropped> {
        let field = |names: [&'static str; 2]| {
            let mut found = names
                .into_iter()
                .filter_map(|name| Some((name, turn.get(name)?)));
            let missing = || {
                let names = one_of(&names);
                wrong(format!("a turn of `{list}` has no {names}"))
            };
            found.next().ok_or_else(missing)
        };
        let (who, name) = field(["role", "from"])?;
        let name = name.as_text().unwrap_or_default();
        let role = Role::named(name)
            .ok_or_else(|| wrong(format!("a turn of `{list}` has the `{who}` {name:?}")))?;
        let (what, content) = field(["content", "value"])?;
        let (text, images) = match content {
            Cell::Text(text) if role == Role::User => tagged(text.clone()),
            Cell::Text(text) => (text.clone(), Vec::new()),
            Cell::List(blocks) => joined(blocks)?,
            other => {
                return Err(wrong(format!(
                    "a turn of `{list}` has {} in `{what}`, not text",
                    other.kind()
                )));
            }
        };
        Ok(Self { role, text, images })
    }
}

/// The text of content blocks; an image is a placeholder, with its name where the block has one.
fn joined(blocks: &[Cell]) -> Result<(String, Vec<ImageRef>), Dropped> {
    let (mut text, mut images) = (String::new(), Vec::new());
    for block in blocks {
        let kind = block.get("type").and_then(Cell::as_text);
        let named = NAMING
            .iter()
            .chain(["bytes"].iter())
            .any(|name| block.get(name).is_some_and(|value| !value.is_empty()));
        let own = || block.get("text").and_then(Cell::as_text);
        match (block, kind) {
            (Cell::Text(own), _) => text.push_str(own),
            (_, Some("text")) | (_, None) if own().is_some() && !named => {
                text.push_str(own().unwrap_or_default());
            }
            (_, Some("image" | "image_url")) | (_, None) if named => {
                text.push_str(IMAGE_PLACEHOLDER);
                images.push(ImageRef::of(block.clone())?);
            }
            (Cell::Record(fields), Some("image")) if fields.iter().all(says_nothing) => {
                text.push_str(IMAGE_PLACEHOLDER);
            }
            (_, kind) => {
                let kind = kind.map_or("without `type`".to_owned(), |kind| {
                    format!("of `type` {kind:?}")
                });
                let fields = fields(block).unwrap_or_else(|| block.kind().to_owned());
                return Err(wrong(format!(
                    "a content block {kind} with {fields}; known are `text`, and `image` or `image_url` with {}",
                    one_of(&NAMING)
                )));
            }
        }
    }
    Ok((text, images))
}

/// Whether a field of an image's block leaves the name of the image to the record's `images`.
fn says_nothing((name, value): &(String, Cell)) -> bool {
    matches!(name.as_str(), "type" | "index") || value.is_empty()
}

/// Takes `<img>name</img>` out of a text.
fn tagged(text: String) -> (String, Vec<ImageRef>) {
    let images: Vec<ImageRef> = IMAGE_TAG
        .captures_iter(&text)
        .map(|found| ImageRef::Named(found[1].trim().to_owned()))
        .collect();
    if images.is_empty() {
        return (text, images);
    }
    (
        IMAGE_TAG.replace_all(&text, IMAGE_PLACEHOLDER).into_owned(),
        images,
    )
}

fn wrong(detail: impl Into<String>) -> Dropped {
    Dropped::new(DropReason::Layout, detail)
}

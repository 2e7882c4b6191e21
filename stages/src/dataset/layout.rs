//! From a record to prompt, answer and image names.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cell::{Cell, fields};
use super::drops::{DropReason, Dropped};
use super::grounding;
use super::names::{ImageRef, contradiction};
use super::turns::Conversation;
use crate::data::{Frame, IMAGE_PLACEHOLDER, Said, Speaker};

/// How the records of a list are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Told from each record's fields.
    #[default]
    Auto,
    /// `messages` (role, content) and `images`: ms-swift, and the official SFT lists. The right answer is the
    /// assistant's, or `solution` where there is none, as in ms-swift's lists for GRPO.
    Messages,
    /// `problem`, `solution`, `image`: the official RL and evaluation lists.
    Problem,
    /// `query`, `response`, `images`: older ms-swift.
    Query,
    /// `conversations` (from, value) and `images` or `image`: LLaMA-Factory's sharegpt, LLaVA.
    Sharegpt,
    /// `instruction`, `input`, `output`, `images`: LLaMA-Factory's alpaca.
    Alpaca,
    /// `question`, `answer`, `image`: lists of visual questions.
    Question,
    /// `prompt`, `completion`, `images`: TRL. The right answer is the completion, or `solution` where there is none.
    Completion,
}

/// The layouts in the order in which they are tried, with the fields that tell them and all they read.
const KNOWN: [(Layout, &[&str], &str); 7] = [
    (Layout::Messages, &["messages"], "messages, images"),
    (Layout::Problem, &["problem"], "problem, solution, image"),
    (Layout::Query, &["query"], "query, response, images"),
    (
        Layout::Sharegpt,
        &["conversations"],
        "conversations, images",
    ),
    (
        Layout::Alpaca,
        &["instruction"],
        "instruction, output, images",
    ),
    (
        Layout::Question,
        &["question", "answer"],
        "question, answer, image",
    ),
    (
        Layout::Completion,
        &["prompt", "completion"],
        "prompt, completion, images",
    ),
];

/// Fields with media that no model here takes.
const MEDIA: [&str; 6] = ["videos", "video", "audios", "audio", "tools", "functions"];
/// Fields with the options of a question, which lists keep apart from its text.
const OPTIONS: [&str; 2] = ["options", "choices"];

impl Layout {
    /// The name in specs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Messages => "messages",
            Self::Problem => "problem",
            Self::Query => "query",
            Self::Sharegpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::Question => "question",
            Self::Completion => "completion",
        }
    }
}

/// A record as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct RawRecord {
    /// What the system is told before the question.
    pub system: Option<String>,
    /// What was said before the question.
    pub history: Vec<Said>,
    /// The question with its placeholders.
    pub prompt: String,
    /// The right answer.
    pub answer: String,
    /// Images, in order.
    pub images: Vec<ImageRef>,
    /// The names of its fields, for people.
    pub fields: String,
    /// What of the question cannot be shown, if anything.
    pub hidden: Option<Dropped>,
    /// The frame of the boxes that the record itself says are boxes.
    pub frame: Option<Frame>,
    /// Fields that the layout does not know.
    pub meta: BTreeMap<String, Value>,
}

/// The fields of the layouts that are known, for people.
pub(super) fn known() -> String {
    KNOWN.map(|(_, _, fields)| fields).join("; ")
}

/// The layout of a record, by the fields that only it has. A field that is there and null does not count, unless no
/// layout has more: tables that were merged have the fields of all.
pub(super) fn detect(record: &Cell) -> Option<Layout> {
    let by = |given: &dyn Fn(&str) -> bool| {
        let fits =
            |(_, fields, _): &&(Layout, &[&str], &str)| fields.iter().all(|field| given(field));
        KNOWN.iter().find(fits).map(|(layout, ..)| *layout)
    };
    by(&|field| record.get(field).is_some_and(|value| *value != Cell::Null))
        .or_else(|| by(&|field| record.get(field).is_some()))
        .or_else(|| {
            let solved = record.get("prompt").is_some() && record.get("solution").is_some();
            solved.then_some(Layout::Completion)
        })
}

/// Takes a record apart.
pub(super) fn read(layout: Layout, record: Cell) -> Result<RawRecord, Dropped> {
    let seen = fields(&record);
    let (Cell::Record(record), Some(seen)) = (record, seen) else {
        return Err(wrong("the record is not an object"));
    };
    let mut fields = Fields(record);
    let mut asked = fields.conversation(layout)?;
    let answer = fields.answer(layout, asked.answer.take())?;
    let mut read = RawRecord {
        system: fields.system(asked.system.take())?,
        history: asked.history,
        prompt: asked.prompt,
        answer,
        images: fields.images(asked.images)?,
        fields: seen,
        hidden: None,
        frame: None,
        meta: BTreeMap::new(),
    };
    if read.texts().any(|text| grounding::has_places(text)) {
        let objects = fields.take("objects");
        read.frame = grounding::fill(read.texts(), objects)?;
    }
    read.hidden = fields.check_rest(&read.prompt).err();
    check_places(&mut read)?;
    read.meta = fields.rest();
    Ok(read)
}

impl RawRecord {
    /// What is asked and answered, in order.
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let earlier = self.history.iter_mut().map(|said| &mut said.content);
        earlier.chain([&mut self.prompt, &mut self.answer])
    }
}

/// Images that the questions have no place for stand in front of the first, as ms-swift and TRL put them.
fn check_places(record: &mut RawRecord) -> Result<(), Dropped> {
    let is = |role| move |said: &&Said| said.role == role;
    let earlier = record.history.iter().filter(is(Speaker::Assistant));
    let elsewhere = [("answer", &record.answer)]
        .into_iter()
        .chain(earlier.map(|said| ("answer", &said.content)))
        .chain(record.system.iter().map(|text| ("system message", text)));
    for (what, text) in elsewhere {
        if text.contains(IMAGE_PLACEHOLDER) {
            let detail = format!("the {what} has {IMAGE_PLACEHOLDER}; only the question can");
            return Err(Dropped::new(DropReason::Placeholder, detail));
        }
    }
    let questions = record.history.iter().filter(is(Speaker::User));
    let questions = questions.map(|said| &said.content).chain([&record.prompt]);
    let places: usize = questions
        .map(|text| text.matches(IMAGE_PLACEHOLDER).count())
        .sum();
    let missing = record.images.len().saturating_sub(places);
    let first = match record.history.first_mut() {
        Some(said) => &mut said.content,
        None => &mut record.prompt,
    };
    first.insert_str(0, &IMAGE_PLACEHOLDER.repeat(missing));
    Ok(())
}

/// The fields of a record that were not taken yet.
struct Fields(Vec<(String, Cell)>);

impl Fields {
    /// Takes a field; of two with one name the last counts, as in Python.
    fn take(&mut self, name: &str) -> Option<Cell> {
        let at = self.0.iter().rposition(|(field, _)| field == name)?;
        let (_, value) = self.0.remove(at);
        self.0.retain(|(field, _)| field != name);
        Some(value)
    }

    /// Takes a field that is there and says something.
    fn given(&mut self, name: &str) -> Option<Cell> {
        self.take(name).filter(|value| !value.is_empty())
    }

    fn need(&mut self, name: &str) -> Result<Cell, Dropped> {
        self.take(name)
            .ok_or_else(|| wrong(format!("the field `{name}` is missing")))
    }

    /// A text; numbers and lists of numbers (boxes) count as their JSON text.
    fn text(&mut self, name: &str) -> Result<String, Dropped> {
        text(name, self.need(name)?)
    }

    /// The question with what stands around it.
    fn conversation(&mut self, layout: Layout) -> Result<Conversation, Dropped> {
        let asked = match layout {
            Layout::Messages | Layout::Auto => {
                Conversation::read("messages", self.need("messages")?, Vec::new())
            }
            Layout::Sharegpt => {
                Conversation::read("conversations", self.need("conversations")?, Vec::new())
            }
            Layout::Completion => match self.need("prompt")? {
                turns @ Cell::List(_) => {
                    let more = match self.given("completion") {
                        Some(Cell::List(turns)) => turns,
                        Some(answer) => {
                            let role = ("role".to_owned(), Cell::Text("assistant".into()));
                            let content = Cell::Text(text("completion", answer)?);
                            vec![Cell::Record(vec![role, ("content".into(), content)])]
                        }
                        None => Vec::new(),
                    };
                    Conversation::read("prompt", turns, more)
                }
                prompt => {
                    let answer = self
                        .given("completion")
                        .map(|cell| text("completion", cell));
                    let prompt = Conversation::of_text(text("prompt", prompt)?);
                    Ok(Conversation {
                        answer: answer.transpose()?,
                        ..prompt
                    })
                }
            },
            Layout::Problem => Ok(Conversation::of_text(self.text("problem")?)),
            Layout::Query => Ok(Conversation::of_text(self.text("query")?)),
            Layout::Question => Ok(Conversation::of_text(self.text("question")?)),
            Layout::Alpaca => {
                let mut prompt = self.text("instruction")?;
                if let Some(input) = self.given("input") {
                    prompt.push('\n');
                    prompt.push_str(&text("input", input)?);
                }
                Ok(Conversation::of_text(prompt))
            }
        };
        match self.given("history") {
            Some(history) => asked?.after(history),
            None => asked,
        }
    }

    /// The right answer: what the turns say, or the layout's field.
    fn answer(&mut self, layout: Layout, said: Option<String>) -> Result<String, Dropped> {
        match layout {
            Layout::Problem => self.text("solution"),
            Layout::Query => self.text("response"),
            Layout::Alpaca => self.text("output"),
            Layout::Question => self.text("answer"),
            Layout::Messages | Layout::Sharegpt | Layout::Completion | Layout::Auto => {
                let solution = self.given("solution");
                let solution = solution.map(|cell| text("solution", cell)).transpose()?;
                match (said, solution) {
                    (Some(said), Some(solution)) if said.trim() != solution.trim() => {
                        let detail = format!(
                            "the assistant's turn {said:?} and `solution` {solution:?} differ; one right answer is taken"
                        );
                        Err(Dropped::new(DropReason::Contradiction, detail))
                    }
                    (Some(answer), _) | (None, Some(answer)) => Ok(answer),
                    (None, None) => Err(wrong(
                        "there is no right answer: no turn of the assistant, and no `solution`",
                    )),
                }
            }
        }
    }

    /// What the system is told: the first turn, or the field `system`.
    fn system(&mut self, said: Option<String>) -> Result<Option<String>, Dropped> {
        let field = self.given("system");
        let field = field.map(|cell| text("system", cell)).transpose()?;
        match (said, field) {
            (Some(said), _) if said.trim().is_empty() => Err(wrong(
                "the system message is empty: chat templates differ in what they make of that; leave it out, or write it",
            )),
            (Some(said), Some(field)) if said != field => Err(Dropped::new(
                DropReason::Contradiction,
                "the system message and the field `system` differ; leave one out",
            )),
            (said, field) => Ok(said.or(field)),
        }
    }

    /// The images of the turns, or of `images` or `image`; where several say it they have to agree.
    fn images(&mut self, own: Vec<ImageRef>) -> Result<Vec<ImageRef>, Dropped> {
        let mut given: Vec<(&str, Vec<ImageRef>)> = Vec::new();
        if !own.is_empty() {
            given.push(("content", own));
        }
        for name in ["images", "image"] {
            let items = match self.given(name) {
                None => continue,
                Some(Cell::List(items)) => items,
                Some(single) => vec![single],
            };
            let read: Result<Vec<_>, _> = items.into_iter().map(ImageRef::of).collect();
            given.push((name, read?));
        }
        let differs = |(_, images): &&(&str, Vec<ImageRef>)| *images != given[0].1;
        if let Some((name, images)) = given.iter().find(differs) {
            let names = |images: &[ImageRef]| {
                let names: Vec<String> = images.iter().map(ImageRef::describe).collect();
                names.join(", ")
            };
            let mut dropped = contradiction(given[0].0, name);
            dropped
                .detail
                .push_str(&format!(" ({} and {})", names(&given[0].1), names(images)));
            return Err(dropped);
        }
        let first = given.into_iter().next();
        Ok(first.map(|(_, images)| images).unwrap_or_default())
    }

    /// Fields that belong to the question and cannot be shown.
    fn check_rest(&self, prompt: &str) -> Result<(), Dropped> {
        for (name, value) in self.0.iter().filter(|(_, value)| !value.is_empty()) {
            if MEDIA.contains(&name.as_str()) {
                return Err(wrong(format!("`{name}` cannot be shown to a model here")));
            }
            if OPTIONS.contains(&name.as_str())
                && let Some(option) = missing_option(value, prompt)
            {
                return Err(wrong(format!(
                    "`{name}` has {option:?}, which the question does not show; write the options into the question"
                )));
            }
        }
        Ok(())
    }

    fn rest(self) -> BTreeMap<String, Value> {
        let fields = self.0.into_iter();
        fields
            .map(|(name, value)| (name, value.into_json()))
            .collect()
    }
}

/// The first of the options that the text does not have.
fn missing_option<'a>(options: &'a Cell, text: &str) -> Option<&'a str> {
    match options {
        Cell::Text(option) => (!text.contains(option.trim())).then_some(option),
        Cell::List(options) => options
            .iter()
            .find_map(|option| missing_option(option, text)),
        Cell::Record(options) => options
            .iter()
            .find_map(|(_, option)| missing_option(option, text)),
        _ => None,
    }
}

/// A cell as text; numbers and lists of numbers (boxes) count as their JSON text.
fn text(name: &str, cell: Cell) -> Result<String, Dropped> {
    let refused = |cell: &Cell| wrong(format!("`{name}` is {}, not text", cell.kind()));
    match cell {
        Cell::Text(text) | Cell::Number(text) => Ok(text),
        Cell::List(items) => {
            let numbers: Result<Vec<String>, Dropped> = items
                .into_iter()
                .map(|item| match item {
                    Cell::Number(text) => Ok(text),
                    other => Err(wrong(format!(
                        "`{name}` is a list with {}, not text",
                        other.kind()
                    ))),
                })
                .collect();
            Ok(format!("[{}]", numbers?.join(", ")))
        }
        other => Err(refused(&other)),
    }
}

fn wrong(detail: impl Into<String>) -> Dropped {
    Dropped::new(DropReason::Layout, detail)
}

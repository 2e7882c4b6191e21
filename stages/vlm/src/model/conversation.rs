//! What a model is told: messages with images in them.

use std::sync::Arc;

use super::image::Picture;
use crate::error::VlmError;

/// What a model is asked: a conversation whose next message is the model's.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The content ID of the sample: names the random streams of what is drawn for it.
    pub id: Arc<str>,
    /// What was said so far. Without a message of the system the model's chat template decides what it is told.
    pub messages: Vec<Message>,
    /// The pictures of the messages' [`Part::Image`], in order.
    pub images: Vec<Picture>,
}

impl Prompt {
    /// A question about some images, with what the system is told; `<image>` placeholders in it stand where the images
    /// go, as [`Message::question`] has it.
    pub fn question(
        id: impl Into<Arc<str>>,
        images: Vec<Picture>,
        system: Option<&str>,
        text: &str,
    ) -> Self {
        let system = system.map(|text| Message::text_of(Role::System, text));
        let question = Message::question(text, images.len());
        Self {
            id: id.into(),
            messages: system.into_iter().chain([question]).collect(),
            images,
        }
    }

    /// Asks `text` in the place of the last question, about the same images.
    pub fn ask(&mut self, text: &str) {
        let last = self.messages.iter_mut().rev();
        let mut questions = last.filter(|message| message.role == Role::User);
        if let Some(question) = questions.next() {
            *question = Message::question(text, question.images());
        }
    }

    /// The text of the last question, for people.
    pub fn text(&self) -> String {
        let mut questions = self.messages.iter().rev();
        let question = questions.find(|message| message.role == Role::User);
        let parts = question.into_iter().flat_map(|message| &message.content);
        let text = |part: &Part| match part {
            Part::Text(text) => Some(text.clone()),
            Part::Image => None,
        };
        parts.filter_map(text).collect()
    }

    /// Checks that there is a picture for each place of one, and what can be checked of them without decoding.
    ///
    /// # Errors
    /// [`VlmError::Config`] with both numbers, or as [`Picture::validate`].
    pub fn validate(&self) -> Result<(), VlmError> {
        let places = self.messages.iter().map(Message::images).sum::<usize>();
        if places != self.images.len() {
            return Err(VlmError::Config(format!(
                "the conversation has {places} places for images, and {} images are given",
                self.images.len()
            )));
        }
        self.images.iter().try_for_each(Picture::validate)
    }

    /// Whether two prompts are one and the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
            && self.messages == other.messages
            && self.images.len() == other.images.len()
            && self
                .images
                .iter()
                .zip(&other.images)
                .all(|(a, b)| a.is_same(b))
    }
}

/// Stands in a question's text where an image goes.
const IMAGE_PLACEHOLDER: &str = "<image>";

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The instructions before the conversation.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Its name in chat templates and datasets.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A stretch of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text. Special tokens written out in it become special tokens.
    Text(String),
    /// The next of the conversation's images.
    Image,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said and shown, in order.
    pub content: Vec<Part>,
}

impl Message {
    /// A message of text alone.
    pub fn text_of(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: vec![Part::Text(text.into())],
        }
    }

    /// A question about `images` images: each goes where the text has an `<image>` placeholder, and those for which it
    /// has none go first. A placeholder too many is text.
    pub fn question(text: &str, images: usize) -> Self {
        let pieces: Vec<&str> = text.splitn(images + 1, IMAGE_PLACEHOLDER).collect();
        let mut content = vec![Part::Image; images + 1 - pieces.len()];
        for (index, piece) in pieces.into_iter().enumerate() {
            if index > 0 {
                content.push(Part::Image);
            }
            if !piece.is_empty() {
                content.push(Part::Text(piece.to_owned()));
            }
        }
        Self {
            role: Role::User,
            content,
        }
    }

    /// Its text, where it has nothing else.
    pub fn text(&self) -> Option<String> {
        let text = |part: &Part| match part {
            Part::Text(text) => Some(text.clone()),
            Part::Image => None,
        };
        self.content.iter().map(text).collect()
    }

    /// How many images it shows.
    pub fn images(&self) -> usize {
        let images = self.content.iter().filter(|part| **part == Part::Image);
        images.count()
    }
}

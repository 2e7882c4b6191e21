//! From samples to what models take.

use std::borrow::Cow;

use dcsft_vlm::model::{Message, Picture, Prompt, Role, VisionLanguageModel};

use super::boxes::{View, is_box};
use super::sample::{Said, Sample, Speaker};

/// Stands in a prompt where an image does.
pub const IMAGE_PLACEHOLDER: &str = "<image>";

/// A sample as one model sees it: boxes stand in the pixels of the image as that model resizes it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    sample: &'a Sample,
    view: View,
}

impl<'a> Shown<'a> {
    /// The sample as `model` sees it.
    pub fn new(sample: &'a Sample, model: &dyn VisionLanguageModel) -> Self {
        let image = sample.images.first();
        let original = image.map_or((1, 1), |image| (image.width, image.height));
        // An image that the model cannot take is told when it is asked to.
        let seen = model.seen(original).unwrap_or(original);
        let view = View {
            original,
            seen,
            mirrored: false,
        };
        Self { sample, view }
    }

    /// The sample's question about `images`, its own, after what was said before.
    pub fn prompt(&self, images: Vec<Picture>) -> Prompt {
        let text = self.trained(&self.sample.prompt, self.view);
        let system = self.sample.system.as_deref();
        let earlier = self.sample.history.iter();
        let earlier: Vec<Message> = earlier.map(|said| self.earlier(said)).collect();
        let shown: usize = earlier.iter().map(Message::images).sum();
        let own = images.len().saturating_sub(shown);
        let system = system.map(|text| Message::text_of(Role::System, text));
        let question = Message::question(&text, own);
        let messages = system.into_iter().chain(earlier).chain([question]);
        Prompt {
            id: self.sample.id.as_str().into(),
            messages: messages.collect(),
            images,
        }
    }

    fn earlier(&self, said: &'a Said) -> Message {
        let text = self.trained(&said.content, self.view);
        match said.role {
            Speaker::User => Message::question(&text, text.matches(IMAGE_PLACEHOLDER).count()),
            Speaker::Assistant => Message::text_of(Role::Assistant, text),
        }
    }

    /// The answer to train on.
    pub fn answer(&self) -> Cow<'a, str> {
        self.trained(&self.sample.answer, self.view)
    }

    /// The right answer that answers are compared with.
    pub fn right(&self) -> Cow<'a, str> {
        match &self.sample.boxes {
            Some(boxes) => boxes.to_score(&self.sample.answer, &self.view),
            None => Cow::Borrowed(&self.sample.answer),
        }
    }

    /// Question and answer where the image is shown mirrored, if they have boxes.
    pub fn mirrored(&self) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
        self.sample.boxes?;
        let view = View {
            mirrored: true,
            ..self.view
        };
        Some((
            self.trained(&self.sample.prompt, view),
            self.trained(&self.sample.answer, view),
        ))
    }

    /// Whether the answer is a box, as far as one can see, of which nobody said where it stands.
    pub fn has_loose_box(&self) -> bool {
        self.sample.boxes.is_none() && is_box(&self.sample.answer)
    }

    /// The image's size in its file and as the model sees it.
    pub fn view(&self) -> View {
        self.view
    }

    fn trained(&self, text: &'a str, view: View) -> Cow<'a, str> {
        match &self.sample.boxes {
            Some(boxes) => boxes.to_train(text, &view),
            None => Cow::Borrowed(text),
        }
    }
}

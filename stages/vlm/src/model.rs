//! What a vision-language model is to the trainers, rollouts and evaluations: they know this module and
//! never which model they have.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Gradients, Tensor};
use dcsft_tensor::params::ParamSet;
use dcsft_tensor::rng::StreamKey;

use crate::error::VlmError;
use crate::lora::{LoraConfig, ModuleGroup};

/// An image as the user gave it: RGB, row-major, 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height * width * 3` bytes.
    pub pixels: Arc<[u8]>,
}

impl RgbImage {
    /// Checks that there are as many pixels as the sizes say, and at least one.
    ///
    /// # Errors
    /// [`VlmError::Config`] with both numbers.
    pub fn validate(&self) -> Result<(), VlmError> {
        let needed = self.width as usize * self.height as usize * 3;
        if needed == 0 || self.pixels.len() != needed {
            return Err(VlmError::Config(format!(
                "an image of {} x {} pixels has {needed} bytes and at least one pixel, not {} bytes",
                self.width,
                self.height,
                self.pixels.len()
            )));
        }
        Ok(())
    }
}

/// An image that lies somewhere else and is decoded where it is needed.
pub trait ImageSource: Send + Sync + Debug {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);
    /// Reads and decodes it.
    ///
    /// # Errors
    /// [`VlmError::Image`] says why it cannot be had.
    fn load(&self) -> Result<RgbImage, VlmError>;
}

/// An image of a conversation.
#[derive(Clone, Debug)]
pub enum Picture {
    /// Decoded, in memory.
    Decoded(RgbImage),
    /// Decoded anew each time it is looked at.
    Stored(Arc<dyn ImageSource>),
}

impl Picture {
    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        match self {
            Self::Decoded(image) => (image.width, image.height),
            Self::Stored(source) => source.size(),
        }
    }

    /// The pixels.
    ///
    /// # Errors
    /// [`VlmError::Image`] where a stored image cannot be had.
    pub fn load(&self) -> Result<Cow<'_, RgbImage>, VlmError> {
        match self {
            Self::Decoded(image) => Ok(Cow::Borrowed(image)),
            Self::Stored(source) => source.load().map(Cow::Owned),
        }
    }

    /// Checks what can be checked without decoding.
    ///
    /// # Errors
    /// As [`RgbImage::validate`].
    pub fn validate(&self) -> Result<(), VlmError> {
        match self {
            Self::Decoded(image) => image.validate(),
            Self::Stored(_) => Ok(()),
        }
    }

    /// Whether two pictures are one and the same; two stored ones are not decoded to find out.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Decoded(a), Self::Decoded(b)) => Arc::ptr_eq(&a.pixels, &b.pixels) || a == b,
            (Self::Stored(a), Self::Stored(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl From<RgbImage> for Picture {
    fn from(image: RgbImage) -> Self {
        Self::Decoded(image)
    }
}

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

/// A conversation with the right answer.
#[derive(Clone, Debug)]
pub struct Example {
    /// What is asked.
    pub prompt: Prompt,
    /// The token ids to learn: first the [`earlier`](Self::earlier) ones, then those of the answer with the end-of-sequence
    /// token.
    pub answer: Arc<[u32]>,
    /// How many of these tokens are those that the prompt's messages of the assistant have
    /// ([`VisionLanguageModel::earlier_answers`]): all of them, or 0 where these are not learnt.
    pub earlier: usize,
}

impl Example {
    /// The tokens that follow the prompt.
    pub fn last_answer(&self) -> &[u32] {
        &self.answer[self.earlier.min(self.answer.len())..]
    }
}

/// Text to token ids and back.
pub trait Tokenizer {
    /// Token ids of `text`, without any end token.
    ///
    /// # Errors
    /// [`VlmError::Vocabulary`] names the first character that the vocabulary cannot write.
    fn encode(&self, text: &str) -> Result<Vec<u32>, VlmError>;
    /// The text of `tokens`, special tokens left out.
    fn decode(&self, tokens: &[u32]) -> String;
    /// The end-of-sequence token.
    fn eos(&self) -> u32;
    /// Rows of the output head.
    fn vocab_size(&self) -> usize;

    /// Token ids of an answer as the model writes it after a prompt: with the end token, and with what its chat template
    /// puts before the text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    fn encode_answer(&self, text: &str) -> Result<Vec<u32>, VlmError> {
        let mut tokens = self.encode(text)?;
        tokens.push(self.eos());
        Ok(tokens)
    }

    /// The text of an answer, without what the chat template puts before it.
    fn decode_answer(&self, tokens: &[u32]) -> String {
        self.decode(tokens)
    }
}

/// How a forward pass is run.
#[derive(Clone, Default)]
pub struct Forward {
    /// Names the random stream of dropout; none switches dropout off.
    pub dropout: Option<StreamKey>,
    /// Keep only what goes into each block, and compute the block again when its gradient is asked for: less memory,
    /// a third more time (Chen et al. 2016). For a model that [can](VisionLanguageModel::can_checkpoint).
    pub checkpointing: bool,
}

/// The part of a model below its logits, for a forward pass that kept only what goes into each block.
pub trait Tape {
    /// Sends the gradient of the logits back through the model; `take` gets the gradients of the weights, block after
    /// block from the top.
    fn backward(self: Box<Self>, pull: Tensor<2>, take: &mut dyn FnMut(Gradients));
}

/// What a teacher-forced forward pass gives.
pub struct Output<'a> {
    /// Logits that predict each answer token: `[sum of answer lengths, vocab]`, sample after sample,
    /// position after position; no padding rows.
    pub logits: Tensor<2>,
    /// Mean of each sample's projected image tokens: `[batch, width]`, for auxiliary heads. None for a model that
    /// has no use for them.
    pub pooled: Option<Tensor<2>>,
    /// With it the logits are a leaf of the autodiff graph, and their gradient is to be sent on through the tape.
    pub tape: Option<Box<dyn Tape + 'a>>,
}

/// How answers are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 means greedy.
    pub temperature: f64,
    /// Smallest set of tokens whose probability reaches it; 1 switches it off.
    pub top_p: f64,
    /// The k most likely tokens; 0 switches it off.
    pub top_k: usize,
    /// Makes tokens that the prompt or the answer has already less likely; 1 switches it off.
    pub repetition_penalty: f64,
    /// Answers end here at the latest.
    pub max_new_tokens: usize,
    /// Seed of the draws. A draw is keyed by (seed, sample ID, generation, position).
    pub seed: u64,
}

impl Default for Sampling {
    /// Plain sampling from the model's distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            max_new_tokens: 128,
            seed: 0,
        }
    }
}

/// One generated answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Token ids with the end token, where the answer reached it.
    pub tokens: Vec<u32>,
    /// Log-probability of each token under the distribution it was drawn from before top-k and top-p
    /// (`log_softmax(logits / temperature)`; at temperature 0 of the plain logits). One per token.
    pub logprobs: Vec<f32>,
    /// The answer ended by itself.
    pub finished: bool,
}

/// A model that sees images, reads a conversation and writes the next answer.
pub trait VisionLanguageModel: Send + Sync {
    /// Its text side.
    fn tokenizer(&self) -> &dyn Tokenizer;
    /// Its weights, adapters included.
    fn params(&self) -> &ParamSet;
    /// Its weights, to train them.
    fn params_mut(&mut self) -> &mut ParamSet;
    /// The adapters it carries.
    fn lora(&self) -> Option<&LoraConfig>;
    /// Puts fresh adapters on the linear layers of the named groups and freezes all other weights. An adapter
    /// starts without effect.
    ///
    /// # Errors
    /// [`VlmError::Config`] for impossible settings, or if there are adapters already.
    fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<(), VlmError>;
    /// Adds the adapters' product to the weights and removes them; all weights are trainable afterwards. Does
    /// nothing without adapters.
    fn merge_lora(&mut self);
    /// Takes the weights of some groups out of training; the others are left as they are.
    ///
    /// # Errors
    /// [`VlmError::Config`] where nothing would be left to train, or with adapters, which freeze all other weights
    /// already.
    fn freeze(&mut self, groups: &BTreeSet<ModuleGroup>) -> Result<(), VlmError>;
    /// A copy with the adapters merged and nothing to train: a reference policy, or a model to evaluate. Weights that
    /// are the same in both are in memory once.
    fn frozen(&self) -> Box<dyn VisionLanguageModel>;
    /// A copy whose weights are leaves of their own, so that two threads can differentiate two parts of a batch side by
    /// side. None where one pass keeps all threads busy by itself.
    fn twin(&self) -> Option<Box<dyn VisionLanguageModel>> {
        None
    }
    /// Takes images of other areas, in pixels, than its settings say, where a limit is given. Folders that the model is
    /// saved to keep its own settings.
    ///
    /// # Errors
    /// [`VlmError::Config`]: a limit that cannot be met, or a model whose images have one size always.
    fn set_pixels(&mut self, min: Option<usize>, max: Option<usize>) -> Result<(), VlmError>;
    /// Whether a forward pass can keep only what goes into each block ([`Forward::checkpointing`]).
    fn can_checkpoint(&self) -> bool {
        false
    }
    /// The image as the model sees it: what it makes of the result is what it makes of `image`. A caller that shows
    /// an image many times saves memory and time by keeping this in its place.
    ///
    /// # Errors
    /// [`VlmError::Config`] where the image's sizes and pixels do not fit together.
    fn shrink(&self, image: &RgbImage) -> Result<RgbImage, VlmError> {
        image.validate()?;
        Ok(image.clone())
    }
    /// The size (width, height) in which the model sees an image of this size.
    ///
    /// # Errors
    /// Where it cannot see one of this size.
    fn seen(&self, size: (u32, u32)) -> Result<(u32, u32), VlmError> {
        Ok(size)
    }
    /// Checks that an example can be taken in whole: known characters, fits the context.
    ///
    /// # Errors
    /// Says what does not fit.
    fn check(&self, prompt: &Prompt, answer: &[u32]) -> Result<(), VlmError>;
    /// Teacher-forced pass over a batch; differentiable in the trainable params.
    ///
    /// # Errors
    /// [`VlmError`] where an example does not fit the model.
    /// The tokens that are learnt of the assistant's messages in a prompt, in order, with the end-of-sequence token of
    /// each: of a conversation every answer is learnt, as in ms-swift.
    ///
    /// # Errors
    /// Where they cannot be told from the rest.
    fn earlier_answers(&self, _prompt: &Prompt) -> Result<Vec<u32>, VlmError> {
        Ok(Vec::new())
    }
    /// Teacher-forced forward pass: what predicts each example's [`answer`](Example::answer).
    ///
    /// # Errors
    /// [`VlmError`] where an example does not fit the model.
    fn forward<'a>(&'a self, batch: &[Example], forward: &Forward) -> Result<Output<'a>, VlmError>;
    /// Questions that one call of [`generate`](Self::generate) is best given: more take memory and save no time. The
    /// answers do not depend on it.
    fn questions_at_once(&self) -> usize;
    /// Generates answers `generations` (indices, so that more of them can be drawn later) for each prompt;
    /// the image and prompt are encoded once per prompt. The result does not depend on how prompts are
    /// grouped into calls.
    ///
    /// # Errors
    /// [`VlmError`] where a prompt does not fit the model.
    fn generate(
        &self,
        prompts: &[Prompt],
        generations: std::ops::Range<u32>,
        sampling: &Sampling,
    ) -> Result<Vec<Vec<Completion>>, VlmError>;
    /// Writes the model's files into `dir` (configuration, tokenizer, weights; adapters apart from the base).
    ///
    /// # Errors
    /// [`VlmError::Io`] with the path.
    fn save(&self, dir: &Path) -> Result<(), VlmError>;
}

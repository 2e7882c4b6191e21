//! A model's sizes, and those of what it is given.

use super::step::Step;
use super::trained::Training;
use crate::error::VlmError;
use crate::lora::LoraConfig;

/// Bytes of a 32-bit number: adapters, optimiser states and everything on the CPU device.
pub const F32: f64 = 4.0;

/// Tokens of one question with its image and of one answer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tokens {
    /// Patches that the image encoder sees.
    pub patches: f64,
    /// Image tokens that the decoder sees.
    pub image: f64,
    /// Text tokens of the question.
    pub question: f64,
    /// Tokens of the answer, the end token included.
    pub answer: f64,
}

/// A packed batch: questions that differ, each with so many answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Questions.
    pub questions: f64,
    /// Answers to each; they share the rows of image and question.
    pub answers: f64,
    /// Of one question and one answer, on average.
    pub tokens: Tokens,
    /// On a GPU.
    pub on_gpu: bool,
}

impl Batch {
    /// Rows of all images in the encoder.
    pub fn patches(&self) -> f64 {
        self.questions * self.tokens.patches
    }

    /// Rows of one question in the decoder, image included.
    pub fn question_rows(&self) -> f64 {
        self.tokens.image + self.tokens.question
    }

    /// Rows of all sequences in the decoder. An answer's last token is not fed in.
    pub fn rows(&self) -> f64 {
        self.questions * (self.question_rows() + self.answers * (self.tokens.answer - 1.0))
    }

    /// Rows that the last layer gives out: those that predict a token of an answer.
    pub fn asked_rows(&self) -> f64 {
        // Answers that share a question share the row that predicts their first token.
        self.questions * (1.0 + self.answers * (self.tokens.answer - 1.0))
    }

    /// Tokens of all answers.
    pub fn answer_tokens(&self) -> f64 {
        self.questions * self.answers * self.tokens.answer
    }

    /// Attention weights of one head: queries times keys, over all sequences. In the `last` layer only rows that
    /// predict are queries.
    pub fn attention(&self, last: bool) -> f64 {
        let (prompt, own) = (self.question_rows(), self.tokens.answer - 1.0);
        let keys = prompt + own;
        let per_question = match (self.answers <= 1.0, last) {
            // One answer is in one span with its question.
            (true, false) => keys * keys,
            (true, true) => (own + 1.0) * keys,
            (false, false) => prompt * prompt + self.answers * own * keys,
            (false, true) => prompt + self.answers * own * keys,
        };
        self.questions * per_question
    }
}

/// A model's sizes, as far as memory goes, and what cannot be trained of it.
pub trait Footprint {
    /// Bytes of one number of weights and activations.
    fn number(&self) -> f64;
    /// The model's tokens: of an image of so many `pixels`, as its file has them, and of texts of so many bytes.
    fn tokens(&self, pixels: f64, question_bytes: f64, answer_bytes: f64) -> Tokens;
    /// Tokens of the longest answer that the model has room for.
    fn longest_answer(&self) -> f64 {
        f64::INFINITY
    }
    /// The largest image that the model does not shrink, in pixels; what is assumed where images are not known.
    fn largest_image(&self) -> f64;
    /// Bytes of an image as the model sees it, three bytes a pixel.
    fn seen_image(&self, tokens: &Tokens) -> f64;
    /// The steps of a forward pass from pixels to logits, in order. Without `training` they tell of a pass that keeps
    /// nothing.
    fn steps(&self, batch: &Batch, training: Option<Training<'_>>) -> Vec<Step>;
    /// Values of the batch's images, alive while the forward pass runs besides the tensor that goes in.
    fn images(&self, batch: &Batch) -> f64;
    /// Rows of the output head.
    fn vocabulary(&self) -> f64;
    /// Values of keys and values that all decoder layers keep for one row.
    fn cached_row(&self) -> f64;
    /// Questions of one call.
    fn at_once(&self, on_gpu: bool) -> f64;
    /// Largest number of questions of such images that are answered together.
    fn group(&self, on_gpu: bool, tokens: &Tokens) -> f64;
    /// Groups of questions that so many threads work on at a time.
    fn groups(&self, threads: f64) -> f64;
    /// Values of a question's image that stay in memory until it is answered.
    fn waiting(&self, tokens: &Tokens) -> f64;
    /// Bytes that reading the weights takes besides the weights.
    fn loading(&self) -> f64;
    /// Bytes that writing a checkpoint takes, with all weights or with adapters alone.
    fn saving(&self, lora: bool) -> f64;
    /// As the model says it of itself.
    fn can_checkpoint(&self) -> bool;
    /// What the model does not allow of `training`, with the field that asks for it; `carried` are the adapters that the
    /// model comes with.
    fn refuses(
        &self,
        training: Training<'_>,
        carried: Option<&LoraConfig>,
    ) -> Option<(&'static str, VlmError)>;
    /// Bytes of copies of the weights that generation makes; `adapters` are those that the model carries.
    fn generating(&self, adapters: Option<&LoraConfig>) -> f64;

    /// Numbers of the weights that are held quantised.
    fn quantised(&self) -> f64 {
        0.0
    }

    /// Bytes of the weights without adapters.
    fn base(&self) -> f64 {
        self.parameters() * self.number()
    }

    /// Numbers of all weights without adapters.
    fn parameters(&self) -> f64 {
        self.trained(Training::WHOLE)
    }

    /// Numbers that training updates.
    fn trained(&self, training: Training<'_>) -> f64 {
        let steps = self.steps(&Batch::NOTHING, Some(training));
        steps.iter().map(|step| step.gradient).sum()
    }

    /// Bytes of the weights, adapters included.
    fn weights(&self, lora: Option<&LoraConfig>) -> f64 {
        let adapters = lora.map_or(0.0, |lora| self.trained(Training::adapters(lora)));
        self.base() + adapters * F32
    }
}

impl Batch {
    /// No question at all.
    pub const NOTHING: Self = Self {
        questions: 0.0,
        answers: 1.0,
        tokens: Tokens {
            patches: 0.0,
            image: 0.0,
            question: 0.0,
            answer: 1.0,
        },
        on_gpu: false,
    };
}

/// Bytes of one value of activations.
pub(super) fn activation(model: &dyn Footprint, on_gpu: bool) -> f64 {
    if on_gpu { model.number() } else { F32 }
}

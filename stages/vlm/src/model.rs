//! What a vision-language model is to the trainers, rollouts and evaluations: they know this module and
//! never which model they have.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::error::VlmError;
use crate::params::ParamSet;
use crate::rng::StreamKey;

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

/// What a model is asked: one image and a question, as text.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The content ID of the sample: names the random streams of what is drawn for it.
    pub id: Arc<str>,
    /// The image.
    pub image: RgbImage,
    /// The question; an `<image>` placeholder in it stands where the image's tokens go.
    pub text: Arc<str>,
}

/// A question with its right answer.
#[derive(Clone, Debug)]
pub struct Example {
    /// The question.
    pub prompt: Prompt,
    /// The answer's token ids, with the end-of-sequence token.
    pub answer: Arc<[u32]>,
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
}

/// How a forward pass is run.
#[derive(Clone, Default)]
pub struct Forward {
    /// Names the random stream of dropout; none switches dropout off.
    pub dropout: Option<StreamKey>,
}

/// What a teacher-forced forward pass gives.
pub struct Output {
    /// Logits that predict each answer token: `[sum of answer lengths, vocab]`, sample after sample,
    /// position after position; no padding rows.
    pub logits: Tensor<2>,
    /// Mean of each sample's projected image tokens: `[batch, width]`, for auxiliary heads.
    pub pooled: Tensor<2>,
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
    /// Answers end here at the latest.
    pub max_new_tokens: usize,
    /// Seed of the draws. A draw is keyed by (seed, sample ID, generation, position).
    pub seed: u64,
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

/// A model that sees one image, reads a question and writes an answer.
pub trait VisionLanguageModel {
    /// Its text side.
    fn tokenizer(&self) -> &dyn Tokenizer;
    /// Its weights, adapters included.
    fn params(&self) -> &ParamSet;
    /// Its weights, to train them.
    fn params_mut(&mut self) -> &mut ParamSet;
    /// The image as the model sees it: what it makes of the result is what it makes of `image`. A caller that shows
    /// an image many times saves memory and time by keeping this in its place.
    ///
    /// # Errors
    /// [`VlmError::Config`] where the image's sizes and pixels do not fit together.
    fn shrink(&self, image: &RgbImage) -> Result<RgbImage, VlmError> {
        image.validate()?;
        Ok(image.clone())
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
    fn forward(&self, batch: &[Example], forward: &Forward) -> Result<Output, VlmError>;
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

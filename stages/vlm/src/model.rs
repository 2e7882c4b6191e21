//! What a vision-language model is to the trainers, rollouts and evaluations: they know this module and
//! never which model they have.

mod conversation;
mod image;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Gradients, Tensor};
use dcsft_tensor::params::ParamSet;
use dcsft_tensor::rng::StreamKey;

use crate::error::VlmError;
use crate::lora::{LoraConfig, ModuleGroup};

pub use conversation::{Message, Part, Prompt, Role};
pub use image::{ImageSource, Picture, RgbImage};

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

/// A teacher-forced forward pass up to the output head, for more logits than are to be in memory at once.
pub struct Below<'a> {
    /// What predicts each answer token: `[sum of answer lengths, width]`, in the order of [`Output::logits`].
    pub rows: Tensor<2>,
    /// From some of these rows to their logits, `[rows, vocab]`.
    pub head: Box<dyn Fn(Tensor<2>) -> Tensor<2> + 'a>,
    /// With it the rows are a leaf of the autodiff graph, and their gradient is to be sent on through the tape.
    pub tape: Option<Box<dyn Tape + 'a>>,
}

/// So many logits a GPU holds at once where a loss is taken, unless a single answer has more: 512 MiB in 32 bits.
pub const LOGITS_AT_ONCE: usize = 1 << 27;

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

/// What is said where `gradient_checkpointing` is asked of a model that [cannot](VisionLanguageModel::can_checkpoint).
pub const NO_CHECKPOINTING: &str =
    "this model has no blocks to compute again, and it would have no effect; leave it out";

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
    /// [`VlmError::Config`] for impossible settings, or if there are adapters already. Those of a
    /// [quantised](Self::is_quantised) model are trained further by settings that fit them, and others are an error.
    fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<(), VlmError>;
    /// Adds the adapters' product to the weights and removes them; all weights are trainable afterwards. Does
    /// nothing without adapters.
    ///
    /// # Errors
    /// [`VlmError::Config`] if the model is [quantised](Self::is_quantised): a sum would be quantised anew, and compute
    /// something else.
    fn merge_lora(&mut self) -> Result<(), VlmError>;
    /// Whether weights are held quantised. Then none of the weights is trained, and adapters stay beside them.
    fn is_quantised(&self) -> bool {
        false
    }
    /// Takes the weights of some groups out of training; the others are left as they are.
    ///
    /// # Errors
    /// [`VlmError::Config`] where nothing would be left to train, or with adapters, which freeze all other weights
    /// already.
    fn freeze(&mut self, groups: &BTreeSet<ModuleGroup>) -> Result<(), VlmError>;
    /// A copy with the adapters merged and nothing to train: a reference policy, or a model to evaluate. Weights that
    /// are the same in both are in memory once. A quantised model's copy keeps the adapters beside its weights.
    fn frozen(&self) -> Box<dyn VisionLanguageModel>;
    /// A copy whose weights are leaves of their own, so that two threads can differentiate two parts of a batch side by
    /// side. None where one pass keeps all threads busy by itself.
    fn twin(&self) -> Option<Box<dyn VisionLanguageModel>> {
        None
    }
    /// A copy on another device, to work there at the same time. On the model's own device the weights are in memory once.
    fn replica(&self, device: &Device) -> Box<dyn VisionLanguageModel>;
    /// A copy without the adapters that [`add_lora`](Self::add_lora) has put on, and with nothing to train. Its weights are
    /// in memory once.
    fn unadapted(&self) -> Box<dyn VisionLanguageModel>;
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
    /// The tokens that are learnt of the assistant's messages in a prompt, in order, with the end-of-sequence token of
    /// each: of a conversation every answer is learnt, as in ms-swift.
    ///
    /// # Errors
    /// Where they cannot be told from the rest.
    fn earlier_answers(&self, _prompt: &Prompt) -> Result<Vec<u32>, VlmError> {
        Ok(Vec::new())
    }
    /// Teacher-forced forward pass: what predicts each example's [`answer`](Example::answer); differentiable in the trainable
    /// params.
    ///
    /// # Errors
    /// [`VlmError`] where an example does not fit the model.
    fn forward<'a>(&'a self, batch: &[Example], forward: &Forward) -> Result<Output<'a>, VlmError>;
    /// The same up to the output head. None for a model whose logits are few.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_below<'a>(
        &'a self,
        _batch: &[Example],
        _forward: &Forward,
    ) -> Result<Option<Below<'a>>, VlmError> {
        Ok(None)
    }
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

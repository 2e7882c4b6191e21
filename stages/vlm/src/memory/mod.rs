//! How much memory a model takes, in training and when it writes answers.
//!
//! Nothing here is fitted: a model says which values each of its steps keeps for the backward pass, as the fused
//! operations keep them ([`Step`]), and this module adds up what is alive at the same time. `docs/memory.md` has the
//! formulas.

mod step;
mod trained;

use dcsft_tensor::ops::KvCache;

use crate::lora::LoraConfig;
use crate::model::LOGITS_AT_ONCE;

pub use step::{Attention, Linear, Step};
pub use trained::{Trained, Training};

/// Bytes of a 32-bit number: adapters, optimiser states and everything on the CPU device.
pub const F32: f64 = 4.0;

/// A process that computes next to nothing: code, tables and the allocator's first pages. Measured, as are the next
/// two.
const PROCESS: f64 = 18.0 * MIB;
/// What a thread adds that has computed something: its stack, and pages that its allocator keeps.
const THREAD: f64 = 6.0 * MIB;
/// Freed blocks of up to a few MiB stay with the allocator, at most about so many bytes in all.
const SLACK: f64 = 24.0 * MIB;
const MIB: f64 = 1024.0 * 1024.0;
/// The allocator's size classes are up to an eighth apart, and a freed block serves those of its class alone.
const CLASSES: f64 = 1.125;

/// Resident bytes of a process besides what it computes with: `threads` that work, and the activations whose freed
/// blocks the allocator may keep.
pub fn process(threads: f64, activations: f64) -> f64 {
    PROCESS + THREAD * threads + freed(2.0 * activations)
}

/// What the allocator keeps of small blocks of so many bytes that were freed.
pub fn freed(bytes: f64) -> f64 {
    SLACK.min(bytes)
}

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

/// A model's sizes, as far as memory goes.
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

/// One update of the weights.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The samples of one forward pass.
    pub batch: Batch,
    /// What is trained.
    pub training: Training<'a>,
    /// Only what goes into each step is kept.
    pub checkpointing: bool,
    /// Several forward passes make one update.
    pub accumulates: bool,
    /// What the optimiser keeps is in the machine's memory, wherever the weights are.
    pub offload: bool,
    /// How often the loss keeps a matrix `[answer tokens, vocabulary]`, and how many more it holds while it is
    /// differentiated.
    pub loss: [f64; 2],
}

/// Bytes of training, without process and data.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peak {
    /// Of what a pass keeps for its backward pass.
    pub activations: f64,
    /// Of all that is alive at the fullest moment.
    pub peak: f64,
}

/// The loss on supervised answers holds the logits and their softmax; a copy of these while they are made, and their
/// gradient on the way back.
pub const SFT_LOSS: [f64; 2] = [2.0, 2.0];
/// GRPO's differentiates in the logits first, and sends the product with that gradient through the model.
pub const GRPO_LOSS: [f64; 2] = [2.0, 3.0];

/// The fullest moment of training: reading the model, an update, or writing a checkpoint.
pub fn train(model: &dyn Footprint, update: &Update<'_>, adapted: Option<&LoraConfig>) -> Peak {
    let lora = update.training.lora;
    let trained = model.trained(update.training);
    let weights = model.weights(lora);
    let moments = match update.offload && update.batch.on_gpu {
        true => 0.0,
        false => (2.0 * F32 + master(model, update)) * trained,
    };
    // They are added up in 32 bits.
    let earlier = if update.accumulates {
        F32 * trained
    } else {
        0.0
    };
    let pass = pass(model, update);
    let updating = weights + moments + earlier + CLASSES * pass.peak;
    // Files are read and written in the machine's memory; one tensor is written at a time.
    let [loading, saving] = match update.batch.on_gpu {
        true => [0.0, 0.0],
        false => [model.loading(), model.saving(lora.is_some())],
    };
    let reading = model.weights(adapted) + loading;
    let saving = weights + moments + saving;
    Peak {
        activations: pass.activations,
        peak: reading.max(updating).max(saving),
    }
}

/// Bytes that the optimiser keeps of the 32-bit value of a trained weight, where the model has 16 of them: the other two
/// on the CPU, the value itself on a GPU.
fn master(model: &dyn Footprint, update: &Update<'_>) -> f64 {
    match (
        update.training.lora,
        model.number() < F32,
        update.batch.on_gpu,
    ) {
        (None, true, true) => F32,
        (None, true, false) => F32 - model.number(),
        _ => 0.0,
    }
}

/// Bytes of one value of activations.
fn activation(model: &dyn Footprint, on_gpu: bool) -> f64 {
    if on_gpu { model.number() } else { F32 }
}

/// A forward and a backward pass: what they hold besides weights and moments.
fn pass(model: &dyn Footprint, update: &Update<'_>) -> Peak {
    let batch = &update.batch;
    let mut steps = model.steps(batch, Some(update.training));
    let matrix = batch.answer_tokens() * model.vocabulary();
    let activation = activation(model, batch.on_gpu);
    let [kept, backward] = update.loss;
    // A GPU keeps no softmax: it has one in 32 bits for a moment, on the way back with the target and the difference.
    let [kept, forward, backward] = match batch.on_gpu {
        false => [kept, 1.0, backward],
        true => {
            let wide = F32 / activation;
            [kept - 1.0, 2.0 * wide, backward - 1.0 + 3.0 * wide]
        }
    };
    let answer = batch.tokens.answer * model.vocabulary();
    let at_once = answer.max(LOGITS_AT_ONCE as f64);
    steps.push(match batch.on_gpu && matrix > at_once {
        false => Step {
            input: matrix,
            kept: kept * matrix,
            forward: forward * matrix,
            backward: backward * matrix,
            gradient: 0.0,
        },
        // Part by part there and back, and nothing of them is kept.
        true => Step {
            forward: (1.0 + kept + forward.max(backward)) * at_once,
            ..Step::default()
        },
    });
    // Below the first step that trains, nothing is kept and no gradient is sent.
    let lowest = steps.iter().position(|step| step.gradient > 0.0);
    let lowest = lowest.unwrap_or(steps.len());
    // The CPU's operations keep weights of 16 bits in 32 until they have been differentiated, but for quantised ones.
    let widened = match model.number() < activation {
        true => F32 * (model.parameters() - model.quantised()),
        false => 0.0,
    };
    let gradient = match update.training.lora {
        Some(_) => F32,
        None => model.number(),
    };
    let images = model.images(batch);
    let (mut held, mut most): (f64, f64) = (0.0, 0.0);
    for (index, step) in steps.iter().enumerate() {
        let inside = if index < lowest {
            step.input
        } else {
            step.kept
        };
        most = most.max((held + inside + step.forward + images) * activation);
        held += match (update.checkpointing, index < lowest) {
            (true, _) => step.input,
            (false, true) => 0.0,
            (false, false) => step.kept,
        };
    }
    let activations = held * activation;
    let mut gradients = 0.0;
    for step in steps[lowest..].iter().rev() {
        let again = if update.checkpointing { step.kept } else { 0.0 };
        gradients += step.gradient * gradient;
        most = most.max((held + again + step.backward) * activation + gradients);
        held -= if update.checkpointing {
            step.input
        } else {
            step.kept
        };
    }
    Peak {
        activations,
        peak: most + widened,
    }
}

/// Answers to a call of `questions` questions.
#[derive(Clone, Copy, Debug)]
pub struct Generation<'a> {
    /// Questions of one call.
    pub questions: f64,
    /// Answers to each.
    pub answers: f64,
    /// Of one question and one answer at its longest.
    pub tokens: Tokens,
    /// Threads that work.
    pub threads: f64,
    /// On a GPU one group is worked on at a time.
    pub on_gpu: bool,
    /// The adapters that the model carries.
    pub adapters: Option<&'a LoraConfig>,
}

/// Bytes that writing answers takes besides the weights: the cache of keys and values, and the widest moment of
/// reading a group's images and questions.
pub fn generate(model: &dyn Footprint, asked: &Generation<'_>) -> f64 {
    let group = asked
        .questions
        .clamp(1.0, model.group(asked.on_gpu, &asked.tokens));
    let most = if asked.on_gpu {
        1.0
    } else {
        model.groups(asked.threads)
    };
    let groups = (asked.questions / group).ceil().clamp(1.0, most);
    let batch = Batch {
        questions: group,
        answers: 1.0,
        tokens: Tokens {
            answer: 1.0,
            ..asked.tokens
        },
        on_gpu: asked.on_gpu,
    };
    let steps = model.steps(&batch, None);
    let widest = |step: &Step| step.input + step.forward;
    let widest = steps.iter().map(widest).fold(0.0, f64::max) + model.images(&batch);
    let cached = model.cached_row();
    let rows = match asked.on_gpu {
        false => asked.tokens.answer,
        true => room(asked.tokens.answer),
    };
    let prompts = group * batch.question_rows() * cached;
    let answers = group * asked.answers * rows * cached;
    // Logits as the head gives them, read, and repeated for each answer.
    let logits = 3.0 * group * asked.answers * model.vocabulary();
    let waiting = group * model.waiting(&asked.tokens);
    let writing = prompts + (answers + logits + waiting).max(widest);
    let number = activation(model, asked.on_gpu);
    CLASSES * groups * writing * number + model.generating(asked.adapters)
}

/// Rows that a GPU's cache has room for once an answer has `rows`.
fn room(rows: f64) -> f64 {
    let mut room = KvCache::ROOM as f64;
    while room < rows {
        room *= 2.0;
    }
    room
}

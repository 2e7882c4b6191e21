//! What Qwen2.5-VL takes of memory.

use std::path::Path;

use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::memory::{Batch, Footprint, Linear, Step, Tokens, Trained, Training};
use serde::{Deserialize, Serialize};

use super::generate::{GPU_GROUP, GROUP};
use super::{Precision, Settings, shapes};
use crate::checkpoint::weight_files;
use crate::processor::{Encode, Message, Part, Processor, Role};
use crate::qwen2_5_vl::config::QwenConfig;

/// A text to measure the tokenizer on: how many bytes a token has.
const TEXT: &str =
    "What is shown in the image? Answer with one of the following options and nothing else.";

/// The memory of a Qwen2.5-VL model of some size.
#[derive(Clone, Debug)]
pub struct QwenFootprint {
    config: QwenConfig,
    precision: Precision,
    texts: Texts,
    /// Numbers in each weight, in the order in which they are read.
    sizes: Vec<f64>,
}

/// What of the processor and the files counts for memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Texts {
    /// Tokens of a conversation with an image and no question, the image's own aside.
    pub template: f64,
    /// Tokens of a byte of text.
    pub per_byte: f64,
    /// Least and largest area of an image, in pixels.
    pub pixels: [f64; 2],
    /// Bytes of the files with the weights.
    pub files: f64,
}

impl Texts {
    /// Measures the processor of a checkpoint's folder.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub fn of(dir: &Path, config: &QwenConfig, settings: &Settings) -> Result<Self, VlmError> {
        let processor =
            Processor::load(dir, config)?.with_pixels(settings.min_pixels, settings.max_pixels)?;
        let options = Encode {
            generation_prompt: true,
            ..Encode::default()
        };
        let side = (2 * processor.images().factor()) as u32;
        let count = |text: &str| {
            let content = vec![Part::Image, Part::Text(text.to_owned())];
            let message = Message {
                role: Role::User,
                content,
            };
            processor.count_tokens(&[message], &[(side, side)], &options)
        };
        let grid = processor.images().grid(side as usize, side as usize)?;
        let image = processor.images().tokens(grid);
        let (short, long) = (count(".")?, count(&format!(".{TEXT}"))?);
        let length = |name: &String| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len());
        // Weights that are drawn have none.
        let files = weight_files(dir).unwrap_or_default();
        let pixels = processor.images();
        Ok(Self {
            template: (short - image) as f64,
            per_byte: (long - short) as f64 / TEXT.len() as f64,
            pixels: [pixels.min_pixels as f64, pixels.max_pixels as f64],
            files: files.iter().map(length).sum::<u64>() as f64,
        })
    }
}

impl QwenFootprint {
    /// Of a model of this configuration.
    pub fn new(config: QwenConfig, precision: Precision, texts: Texts) -> Self {
        let sizes = shapes(&config)
            .into_iter()
            .map(|(_, [rows, columns], _)| (rows * columns) as f64)
            .collect();
        Self {
            sizes,
            config,
            precision,
            texts,
        }
    }

    /// Numbers in the largest weight.
    fn largest(&self) -> f64 {
        self.sizes.iter().copied().fold(0.0, f64::max)
    }

    fn vision_block(&self, index: usize, batch: &Batch, trained: Trained<'_>) -> Step {
        let vision = &self.config.vision;
        let (width, hidden) = (vision.hidden_size as f64, vision.intermediate_size as f64);
        let rows = batch.patches();
        let window = (vision.window_size / vision.patch_size).pow(2) as f64;
        let keys = match vision.full_attention_blocks.contains(&index) {
            true => batch.tokens.patches,
            false => batch.tokens.patches.min(window),
        };
        let mut step = Step::on(rows * width);
        let mut linear = |sizes| {
            step.linear(trained.linear(ModuleGroup::Vision, rows, sizes, true));
        };
        linear([width, 3.0 * width]);
        linear([width, width]);
        linear([width, hidden]);
        linear([width, hidden]);
        linear([hidden, width]);
        // The two norms' inputs and outputs, the latter being the linear layers' inputs.
        step.keep(4.0 * rows * width);
        let weights = vision.heads as f64 * rows * keys;
        step.keep(3.0 * rows * width + weights);
        // Mixed values; gate, up and their product.
        step.keep(rows * width + 3.0 * rows * hidden);
        step.widen(3.0 * rows * width + weights, 3.0 * rows * width);
        step.widen(rows * width + 2.0 * rows * hidden, 2.0 * rows * hidden);
        step.train(trained.of(2.0 * width));
        step
    }

    fn layer(&self, last: bool, batch: &Batch, trained: Trained<'_>) -> Step {
        let text = &self.config.text;
        let (width, hidden) = (text.hidden_size as f64, text.intermediate_size as f64);
        let queries = (text.heads * text.head_dim) as f64;
        let keys = (text.kv_heads * text.head_dim) as f64;
        let given = batch.rows();
        let asked = if last { batch.asked_rows() } else { given };
        let mut step = Step::on(given * width);
        let mut linear = |rows, sizes, bias| {
            step.linear(trained.linear(ModuleGroup::Decoder, rows, sizes, bias));
        };
        linear(given, [width, queries], true);
        linear(given, [width, keys], true);
        linear(given, [width, keys], true);
        linear(asked, [queries, width], false);
        linear(asked, [width, hidden], false);
        linear(asked, [width, hidden], false);
        linear(asked, [hidden, width], false);
        // The norms' inputs and outputs, the latter being the linear layers' inputs.
        step.keep(2.0 * given * width + 2.0 * asked * width);
        let packed = given * (queries + 2.0 * keys);
        let weights = text.heads as f64 * batch.attention(last);
        step.keep(packed + weights);
        // Mixed values; gate, up and their product.
        step.keep(asked * queries + 3.0 * asked * hidden);
        // Queries, keys and values by themselves, side by side, and turned.
        step.widen(packed, 2.0 * packed);
        step.widen(packed + weights, packed);
        step.widen(asked * (width + 2.0 * hidden), 2.0 * asked * hidden);
        step.train(trained.of(2.0 * width));
        step
    }

    fn merger(&self, batch: &Batch, trained: Trained<'_>) -> Step {
        let vision = &self.config.vision;
        let merge = vision.spatial_merge_size.pow(2) as f64;
        let values = batch.patches() * vision.hidden_size as f64;
        let (rows, merged) = (batch.patches() / merge, vision.hidden_size as f64 * merge);
        let mut step = Step::on(values);
        let out = vision.out_hidden_size as f64;
        for sizes in [[merged, merged], [merged, out]] {
            step.linear(trained.linear(ModuleGroup::Projector, rows, sizes, true));
        }
        // The norm's input and output, and the first layer's values before and after GELU.
        step.keep(4.0 * values);
        step.train(trained.of(vision.hidden_size as f64));
        step
    }

    /// Token embedding and image tokens, put in order.
    fn embed(&self, batch: &Batch, trained: Trained<'_>) -> Step {
        let text = &self.config.text;
        let width = text.hidden_size as f64;
        let rows = batch.rows() * width;
        let mut step = Step::on(batch.questions * batch.tokens.image * width);
        step.widen(rows, 2.0 * rows);
        let table = trained.of(text.vocab_size as f64 * width);
        match self.config.tie_word_embeddings {
            // The head's gradient is there already, and this one is added to it.
            true => step.widen(table, rows),
            false => step.train(table),
        }
        step
    }

    fn head(&self, batch: &Batch, trained: Trained<'_>) -> Step {
        let text = &self.config.text;
        let (width, vocab) = (text.hidden_size as f64, text.vocab_size as f64);
        let rows = batch.asked_rows();
        let mut step = Step::on(rows * width);
        // The norm's input and output. The logits belong to the loss.
        step.keep(2.0 * rows * width);
        // The logits are put together from pieces of the vocabulary.
        step.widen(rows * width, rows * vocab);
        step.train(trained.of(width + vocab * width));
        step
    }
}

impl Footprint for QwenFootprint {
    fn number(&self) -> f64 {
        self.precision.bytes() as f64
    }

    fn tokens(&self, pixels: f64, question_bytes: f64, answer_bytes: f64) -> Tokens {
        let vision = &self.config.vision;
        let [least, most] = self.texts.pixels;
        let patches = pixels.clamp(least, most) / vision.patch_size.pow(2) as f64;
        Tokens {
            patches,
            image: patches / vision.spatial_merge_size.pow(2) as f64,
            question: self.texts.template + question_bytes * self.texts.per_byte,
            answer: answer_bytes * self.texts.per_byte + 1.0,
        }
    }

    fn largest_image(&self) -> f64 {
        self.texts.pixels[1]
    }

    fn seen_image(&self, tokens: &Tokens) -> f64 {
        3.0 * tokens.patches * self.config.vision.patch_size.pow(2) as f64
    }

    fn steps(&self, batch: &Batch, training: Option<Training<'_>>) -> Vec<Step> {
        let (vision, text, trained) = (&self.config.vision, &self.config.text, Trained(training));
        let rows = batch.patches();
        let (values, width) = (vision.patch_values() as f64, vision.hidden_size as f64);
        let mut patch = Step::on(rows * values);
        patch.keep(rows * values);
        patch.linear(Linear {
            adapter: None,
            ..trained.linear(ModuleGroup::Vision, rows, [values, width], false)
        });
        let blocks = (0..vision.depth).map(|index| self.vision_block(index, batch, trained));
        let layers =
            (0..text.layers).map(|index| self.layer(index + 1 == text.layers, batch, trained));
        [patch]
            .into_iter()
            .chain(blocks)
            .chain([self.merger(batch, trained), self.embed(batch, trained)])
            .chain(layers)
            .chain([self.head(batch, trained)])
            .collect()
    }

    /// The patches as the processor cut them and in window order, and the angles of all rows.
    fn images(&self, batch: &Batch) -> f64 {
        let (vision, text) = (&self.config.vision, &self.config.text);
        let patches = 2 * vision.patch_values() + vision.head_dim();
        batch.patches() * patches as f64 + batch.rows() * text.head_dim as f64
    }

    fn vocabulary(&self) -> f64 {
        self.config.text.vocab_size as f64
    }

    /// On the processor keys and values; the tensor path keeps the queries too.
    fn cached_row(&self, on_gpu: bool) -> f64 {
        let text = &self.config.text;
        let heads = match on_gpu {
            false => 2 * text.kv_heads,
            true => text.heads + 2 * text.kv_heads,
        };
        (text.layers * heads * text.head_dim) as f64
    }

    fn at_once(&self, on_gpu: bool) -> f64 {
        self.group(on_gpu)
    }

    fn group(&self, on_gpu: bool) -> f64 {
        (if on_gpu { GPU_GROUP } else { GROUP }) as f64
    }

    /// All threads work on one.
    fn groups(&self, _threads: f64) -> f64 {
        1.0
    }

    /// The patches as the processor cut them stay with their questions.
    fn waiting(&self, tokens: &Tokens) -> f64 {
        tokens.patches * self.config.vision.patch_values() as f64
    }

    /// At each weight: the mapped files as far as they are read, a copy of the weight with its turned copy, and less
    /// what is still to come.
    fn loading(&self) -> f64 {
        let all: f64 = self.sizes.iter().sum();
        let mut read = 0.0;
        let at_each = self.sizes.iter().map(|size| {
            read += size;
            self.texts.files * read / all + 2.0 * 4.0 * size - (all - read) * self.number()
        });
        at_each.fold(0.0, f64::max)
    }

    /// One weight at a time: read, turned, and as bytes. An adapter's checkpoint links the base.
    fn saving(&self, lora: bool) -> f64 {
        if lora {
            0.0
        } else {
            3.0 * 4.0 * self.largest()
        }
    }

    fn generating(&self, _adapters: Option<&LoraConfig>) -> f64 {
        0.0
    }
}

//! What a model takes of memory: from the layers that its family declared, and the sizes of its tower.

mod texts;

use dcsft_tensor::params::ParamId;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::memory::{
    Attention, Batch, F32, Footprint, Linear, Step, Tokens, Trained, Training, freed,
};

use crate::decoder::DecoderConfig;
use crate::generate::Group;
use crate::quantize::Plan;
use crate::registry::Config;
use crate::settings::{Precision, Quantize};
use crate::tower::{ImageCost, TowerShape};
use crate::training;

pub use texts::Texts;

/// The memory of a model of some size.
#[derive(Clone)]
pub struct HubFootprint {
    config: Config,
    tower: TowerShape,
    precision: Precision,
    texts: Texts,
    /// How weights are held, and whether on a GPU.
    quantize: Quantize,
    on_gpu: bool,
    /// Numbers in each weight, in the order in which they are read.
    sizes: Vec<f64>,
    /// Bytes that each of them is held in.
    held: Vec<f64>,
}

impl HubFootprint {
    /// Of a model of this configuration.
    pub fn new(config: Config, precision: Precision, texts: Texts) -> Self {
        let weights = config.layers.weights.iter();
        let sizes: Vec<f64> = weights.map(|weight| weight.numbers() as f64).collect();
        let number = precision.bytes() as f64;
        Self {
            held: sizes.iter().map(|size| size * number).collect(),
            sizes,
            tower: config.family.tower_shape(),
            config,
            precision,
            texts,
            quantize: Quantize::None,
            on_gpu: false,
        }
    }

    /// The same with weights held as `quantize` says, on a GPU or on the CPU.
    #[must_use]
    pub fn with_quantize(mut self, quantize: Quantize, on_gpu: bool) -> Self {
        // Layers that do not fit fail the stage that makes the model.
        let plan = self.config.layers.plan(quantize).unwrap_or(Plan::NOTHING);
        let number = self.number();
        let weights = self.config.layers.weights.iter().enumerate();
        let held = weights.map(|(index, weight)| match plan.bits(ParamId(index)) {
            Some(bits) => bits.bytes(weight.numbers(), !on_gpu) as f64,
            None => weight.numbers() as f64 * number,
        });
        self.held = held.collect();
        Self {
            quantize,
            on_gpu,
            ..self
        }
    }

    /// A linear layer that adapters can be on.
    fn linear<'a>(
        &self,
        trained: Trained<'a>,
        group: ModuleGroup,
        rows: f64,
        sizes: [f64; 2],
        bias: bool,
    ) -> Linear<'a> {
        // Values of activations: the weight in 32 bits, and in the model's own type where that has 16.
        let values = match (self.quantize, self.precision, self.on_gpu) {
            (Quantize::None, ..) => 0.0,
            (_, Precision::F32, _) => 1.0,
            (_, Precision::Bf16, false) => 1.5,
            (_, Precision::Bf16, true) => 3.0,
        };
        Linear {
            dequantised: values * sizes[0] * sizes[1],
            ..trained.linear(group, rows, sizes, bias)
        }
    }

    fn text(&self) -> &DecoderConfig {
        &self.config.family.decoder().config
    }

    fn cost(&self, pixels: f64) -> ImageCost {
        self.config.family.image_cost(pixels, self.texts.pixels)
    }

    /// Numbers in the largest weight.
    fn largest(&self) -> f64 {
        self.sizes.iter().copied().fold(0.0, f64::max)
    }

    fn vision_block(&self, window: Option<usize>, batch: &Batch, trained: Trained<'_>) -> Step {
        let tower = &self.tower;
        let (width, hidden) = (tower.width as f64, tower.inner as f64);
        let rows = batch.patches();
        let together = self
            .cost(self.texts.pixels[1])
            .together
            .min(batch.tokens.patches);
        let keys = window.map_or(together, |window| together.min(window as f64));
        let mut step = Step::on(rows * width);
        let mut linear = |sizes| {
            step.linear(self.linear(trained, ModuleGroup::Vision, rows, sizes, true));
        };
        linear([width, 3.0 * width]);
        linear([width, width]);
        let inner = if tower.gated { 2 } else { 1 };
        (0..inner).for_each(|_| linear([width, hidden]));
        linear([hidden, width]);
        // The two norms' inputs and outputs, the latter being the linear layers' inputs.
        step.keep(4.0 * rows * width);
        step.attend(Attention {
            packed: 3.0 * rows * width,
            weights: tower.heads as f64 * rows * keys,
            mixed: rows * width,
            beside: 3.0 * rows * width,
            in_blocks: batch.on_gpu,
        });
        // Mixed values; gate, up and their product, or the MLP's values before and after its activation.
        let inner = f64::from(inner);
        step.keep(rows * width + (inner + 1.0) * rows * hidden);
        step.widen(rows * width + inner * rows * hidden, inner * rows * hidden);
        step.train(trained.of(ModuleGroup::Vision, 2.0 * width));
        step
    }

    fn layer(&self, last: bool, batch: &Batch, trained: Trained<'_>) -> Step {
        let text = self.text();
        let (width, hidden) = (text.hidden as f64, text.intermediate as f64);
        let queries = (text.heads * text.head_dim) as f64;
        let keys = (text.kv_heads * text.head_dim) as f64;
        let given = batch.rows();
        let asked = if last { batch.asked_rows() } else { given };
        let mut step = Step::on(given * width);
        let mut linear = |rows, sizes, bias| {
            step.linear(self.linear(trained, ModuleGroup::Decoder, rows, sizes, bias));
        };
        linear(given, [width, queries], text.qkv_bias);
        linear(given, [width, keys], text.qkv_bias);
        linear(given, [width, keys], text.qkv_bias);
        linear(asked, [queries, width], false);
        linear(asked, [width, hidden], false);
        linear(asked, [width, hidden], false);
        linear(asked, [hidden, width], false);
        // The norms' inputs and outputs, the latter being the linear layers' inputs.
        step.keep(2.0 * given * width + 2.0 * asked * width);
        let packed = given * (queries + 2.0 * keys);
        if text.head_norm {
            step.keep(given * (queries + keys));
        }
        step.attend(Attention {
            packed,
            weights: text.heads as f64 * batch.attention(last),
            mixed: asked * queries,
            beside: packed,
            in_blocks: batch.on_gpu,
        });
        // Mixed values; gate, up and their product.
        step.keep(asked * queries + 3.0 * asked * hidden);
        // Queries, keys and values by themselves, side by side, and turned.
        step.widen(packed, 2.0 * packed);
        step.widen(asked * (width + 2.0 * hidden), 2.0 * asked * hidden);
        step.train(trained.of(ModuleGroup::Decoder, 2.0 * width));
        step
    }

    /// A stack of linear layers from patches to the decoder's width.
    fn merger(&self, stack: &[(usize, [usize; 2])], batch: &Batch, trained: Trained<'_>) -> Step {
        let width = self.tower.width as f64;
        let values = batch.patches() * width;
        let mut step = Step::on(values);
        // The norm's input and output.
        step.keep(2.0 * values);
        for (index, (patches, sizes)) in stack.iter().enumerate() {
            let rows = batch.patches() / *patches as f64;
            let sizes = sizes.map(|size| size as f64);
            let layer = self.linear(trained, ModuleGroup::Projector, rows, sizes, true);
            step.linear(layer);
            if index + 1 < stack.len() {
                // Its values before and after the activation.
                step.keep(2.0 * rows * sizes[1]);
            }
        }
        step.train(trained.of(ModuleGroup::Projector, width));
        step
    }

    /// Token embedding and image tokens, put in order.
    fn embed(&self, batch: &Batch, trained: Trained<'_>) -> Step {
        let text = self.text();
        let width = text.hidden as f64;
        let rows = batch.rows() * width;
        let mut step = Step::on(batch.questions * batch.tokens.image * width);
        step.widen(rows, 2.0 * rows);
        let table = trained.of(ModuleGroup::Decoder, text.vocab as f64 * width);
        match text.tied {
            // The head's gradient is there already, and this one is added to it.
            true => step.widen(table, rows),
            false => step.train(table),
        }
        step
    }

    fn head(&self, batch: &Batch, trained: Trained<'_>) -> Step {
        let text = self.text();
        let (width, vocab) = (text.hidden as f64, text.vocab as f64);
        let rows = batch.asked_rows();
        let mut step = Step::on(rows * width);
        // The norm's input and output. The logits belong to the loss.
        step.keep(2.0 * rows * width);
        // The logits are put together from pieces of the vocabulary.
        step.widen(rows * width, rows * vocab);
        step.train(trained.of(ModuleGroup::Decoder, width + vocab * width));
        step
    }
}

impl Footprint for HubFootprint {
    fn number(&self) -> f64 {
        self.precision.bytes() as f64
    }

    fn tokens(&self, pixels: f64, question_bytes: f64, answer_bytes: f64) -> Tokens {
        let cost = self.cost(pixels);
        Tokens {
            patches: cost.patches,
            image: cost.tokens,
            question: self.texts.template + question_bytes * self.texts.per_byte,
            answer: answer_bytes * self.texts.per_byte + 1.0,
        }
    }

    /// As they were declared: towers have tables that no step tells of.
    fn trained(&self, training: Training<'_>) -> f64 {
        training::trained(&self.config.layers, training)
    }

    fn largest_image(&self) -> f64 {
        self.texts.pixels[1]
    }

    fn seen_image(&self, tokens: &Tokens) -> f64 {
        3.0 * tokens.patches * self.tower.patch_pixels as f64
    }

    fn steps(&self, batch: &Batch, training: Option<Training<'_>>) -> Vec<Step> {
        let (tower, trained) = (&self.tower, Trained(training));
        let rows = batch.patches();
        let (values, width) = (tower.patch_values as f64, tower.width as f64);
        let mut patch = Step::on(rows * values);
        patch.keep(rows * values);
        patch.linear(Linear {
            adapter: None,
            ..trained.linear(ModuleGroup::Vision, rows, [values, width], false)
        });
        let blocks = tower.windows.iter();
        let blocks = blocks.map(|&window| self.vision_block(window, batch, trained));
        let mergers = tower.mergers.iter();
        let mergers = mergers.map(|stack| self.merger(stack, batch, trained));
        let layers = self.text().layers;
        let layers = (0..layers).map(|index| self.layer(index + 1 == layers, batch, trained));
        [patch]
            .into_iter()
            .chain(blocks)
            .chain(mergers)
            .chain([self.embed(batch, trained)])
            .chain(layers)
            .chain([self.head(batch, trained)])
            .collect()
    }

    /// The bytes of patches as the processor cut them and as the tower takes them, and the angles of all rows.
    fn images(&self, batch: &Batch) -> f64 {
        let tower = &self.tower;
        let angles = batch.patches() * (tower.width / tower.heads) as f64;
        2.0 * self.seen_image(&batch.tokens) * batch.questions / F32
            + angles
            + batch.rows() * self.text().head_dim as f64
    }

    fn vocabulary(&self) -> f64 {
        self.text().vocab as f64
    }

    fn cached_row(&self) -> f64 {
        let text = self.text();
        (2 * text.layers * text.kv_heads * text.head_dim) as f64
    }

    fn at_once(&self, on_gpu: bool) -> f64 {
        Group::of(on_gpu).questions() as f64
    }

    fn group(&self, on_gpu: bool, tokens: &Tokens) -> f64 {
        let Group { places, patches } = Group::of(on_gpu);
        let that_fit = (patches as f64 / tokens.patches.max(1.0)).floor();
        that_fit.clamp(1.0, places.prompts as f64)
    }

    /// All threads work on one.
    fn groups(&self, _threads: f64) -> f64 {
        1.0
    }

    /// The patches as the processor cut them stay with their questions.
    fn waiting(&self, tokens: &Tokens) -> f64 {
        self.seen_image(tokens) / F32
    }

    fn quantised(&self) -> f64 {
        let number = self.number();
        let weights = self.sizes.iter().zip(&self.held);
        let quantised = weights.filter(|(size, held)| **held != **size * number);
        quantised.map(|(size, _)| size).sum()
    }

    fn base(&self) -> f64 {
        self.held.iter().sum()
    }

    /// At each weight: the mapped files as far as they are read, a copy of the weight with its turned copy, and less
    /// what is still to come. Of weights that are quantised the copies are freed, and the allocator keeps some.
    fn loading(&self) -> f64 {
        let all: f64 = self.sizes.iter().sum();
        let (mut read, mut to_come) = (0.0, self.base());
        let weights = self.sizes.iter().zip(&self.held);
        let at_each = weights.map(|(size, held)| {
            read += size;
            to_come -= held;
            self.texts.files * read / all + 2.0 * 4.0 * size - to_come
        });
        at_each.fold(0.0, f64::max) + freed(4.0 * self.quantised())
    }

    /// One weight at a time: read, turned, and as bytes. An adapter's checkpoint links the base.
    fn saving(&self, lora: bool) -> f64 {
        if lora {
            0.0
        } else {
            3.0 * 4.0 * self.largest()
        }
    }

    fn can_checkpoint(&self) -> bool {
        true
    }

    fn refuses(
        &self,
        training: Training<'_>,
        carried: Option<&LoraConfig>,
    ) -> Option<(&'static str, VlmError)> {
        let quantised = self.quantize != Quantize::None;
        training::refuses(&self.config.layers, quantised, training, carried)
    }

    fn generating(&self, _adapters: Option<&LoraConfig>) -> f64 {
        0.0
    }
}

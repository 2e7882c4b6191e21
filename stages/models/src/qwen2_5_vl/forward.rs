//! The forward pass, as a chain of steps from pixels to logits.

use std::sync::Arc;

use burn::tensor::{Gradients, Tensor, TensorData};
use dcsft_vlm::lora::draw_dropout;
use dcsft_vlm::model::Forward;
use dcsft_vlm::ops::{self, Activation, Adapter, Heads, Spans};
use dcsft_vlm::params::ParamId;

use super::batch::Batch;
use super::modules::{DecoderLayer, Linear, Mlp, VisionBlock};
use super::vision::VisionPlan;
use super::{HiddenStates, QwenVl};

/// A model on its way through a batch.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a QwenVl,
    pub(crate) options: &'a Forward,
}

/// The rows of an operation's input: whose they are.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Content ID of the sample behind each stretch of rows.
    pub(crate) ids: &'a [Arc<str>],
    /// Rows of each stretch.
    pub(crate) counts: &'a [usize],
}

/// One step of the chain: rows in, rows out.
type Step<'a> = Box<dyn Fn(Tensor<2>) -> Tensor<2> + 'a>;

/// The steps of a batch, from the first that has something to compute.
pub(crate) struct Chain<'a> {
    steps: Vec<Step<'a>>,
    /// Whether a step has weights to train.
    trains: Vec<bool>,
}

impl Pass<'_> {
    /// A block of the vision tower.
    pub(crate) fn vision_block(
        &self,
        x: Tensor<2>,
        block: &VisionBlock,
        index: usize,
        plan: &VisionPlan,
        rows: Rows,
    ) -> Tensor<2> {
        let config = &self.model.config().vision;
        let spans = match config.full_attention_blocks.contains(&index) {
            true => &plan.frames,
            false => &plan.windows,
        };
        let qkv = self.linear(
            self.vision_norm(x.clone(), block.norm1),
            &block.qkv,
            rows,
            Activation::None,
        );
        let qkv = ops::rotate_wide(qkv, &plan.rotary, 2 * config.heads);
        let mixed = ops::attention(qkv, spans, Heads::all(config.heads));
        let x = x + self.linear(mixed, &block.proj, rows, Activation::None);
        let hidden = self.mlp(self.vision_norm(x.clone(), block.norm2), &block.mlp, rows);
        x + hidden
    }

    /// The patch embedding: `[rows, patch values]` to `[rows, width]`.
    fn embed_patches(&self, patches: Tensor<2>) -> Tensor<2> {
        let kernel = self
            .model
            .params_ref()
            .get(self.model.modules().patch.weight);
        let order = self.model.config().vision.convolution_order();
        ops::convolve(patches, &ops::take_rows(kernel.clone(), &order))
    }

    /// Merged image tokens in window order, from patches in window order.
    pub(crate) fn encode(&self, patches: Tensor<2>, plan: &VisionPlan, rows: Rows) -> Tensor<2> {
        let modules = self.model.modules();
        let mut x = self.embed_patches(patches);
        for (index, block) in modules.blocks.iter().enumerate() {
            x = self.vision_block(x, block, index, plan, rows);
        }
        self.merge(x, rows)
    }

    pub(crate) fn hidden_states(&self, batch: &Batch) -> HiddenStates {
        let modules = self.model.modules();
        let (mut vision, mut merged, mut window_index) = (Vec::new(), None, Vec::new());
        if let Some(plan) = &batch.vision {
            let rows = Rows {
                ids: &batch.image_ids,
                counts: &plan.image_rows,
            };
            let x = patches(batch, self.model);
            let mut x = self.embed_patches(x);
            vision.push(x.clone());
            for (index, block) in modules.blocks.iter().enumerate() {
                x = self.vision_block(x, block, index, plan, rows);
                vision.push(x.clone());
            }
            merged = Some(self.merge(x, rows));
            window_index = plan.window_index.clone();
        }
        let mut x = self.embed(merged.clone(), batch);
        let mut decoder = vec![x.clone()];
        for layer in &modules.layers {
            x = self.decoder_layer(x, layer, batch, false);
            decoder.push(x.clone());
        }
        HiddenStates {
            window_index,
            vision,
            merged,
            decoder,
            last: self.text_norm(x, modules.norm),
        }
    }

    /// The token embedding, `[vocab, hidden]`.
    pub(crate) fn embedding(&self) -> Tensor<2> {
        self.model
            .params_ref()
            .get(self.model.modules().embedding)
            .clone()
    }

    /// The patch merger: `[rows, width]` to `[rows / merge², out width]`.
    pub(crate) fn merge(&self, x: Tensor<2>, rows: Rows) -> Tensor<2> {
        let block = self.model.config().vision.spatial_merge_size.pow(2);
        let [count, width] = x.dims();
        let x = self
            .vision_norm(x, self.model.modules().merger_norm)
            .reshape([count / block, width * block]);
        let counts: Vec<usize> = rows.counts.iter().map(|count| count / block).collect();
        let rows = Rows {
            counts: &counts,
            ..rows
        };
        let [first, second] = &self.model.modules().merger;
        self.linear(
            self.linear(x, first, rows, Activation::Gelu),
            second,
            rows,
            Activation::None,
        )
    }

    /// The decoder's input: image tokens and text tokens in the order of the sequences.
    pub(crate) fn embed(&self, image: Option<Tensor<2>>, batch: &Batch) -> Tensor<2> {
        let text = ops::take_rows(self.embedding(), &batch.tokens);
        match image {
            Some(image) => ops::take_rows(Tensor::cat(vec![image, text], 0), &batch.sources),
            None => text,
        }
    }

    /// Queries, keys and values of a decoder layer, turned by their positions.
    pub(crate) fn qkv(
        &self,
        x: Tensor<2>,
        layer: &DecoderLayer,
        rotary: &ops::Rotary,
        rows: Rows,
    ) -> Tensor<2> {
        let text = &self.model.config().text;
        let x = self.text_norm(x, layer.norm1);
        let parts = layer
            .qkv
            .each_ref()
            .map(|part| self.linear(x.clone(), part, rows, Activation::None));
        ops::rotate(
            Tensor::cat(parts.to_vec(), 1),
            rotary,
            text.heads + text.kv_heads,
        )
    }

    /// What follows attention.
    pub(crate) fn finish(
        &self,
        x: Tensor<2>,
        mixed: Tensor<2>,
        layer: &DecoderLayer,
        rows: Rows,
    ) -> Tensor<2> {
        let x = x + self.linear(mixed, &layer.out, rows, Activation::None);
        let hidden = self.mlp(self.text_norm(x.clone(), layer.norm2), &layer.mlp, rows);
        x + hidden
    }

    /// A layer of the decoder on `spans`; gives the rows that these ask for. `given` are the rows in, `asked` those out.
    fn layer(
        &self,
        x: Tensor<2>,
        layer: &DecoderLayer,
        batch: &Batch,
        spans: &Spans,
        [given, asked]: [Rows; 2],
    ) -> Tensor<2> {
        let text = &self.model.config().text;
        let heads = Heads {
            queries: text.heads,
            keys: text.kv_heads,
        };
        let qkv = self.qkv(x.clone(), layer, &batch.rotary, given);
        let mixed = ops::attention(qkv, spans, heads);
        let x = match spans.outputs() == x.dims()[0] {
            true => x,
            false => ops::take_rows(x, &spans.query_rows()),
        };
        self.finish(x, mixed, layer, asked)
    }

    /// Logits of rows of the last layer.
    pub(crate) fn head(&self, x: Tensor<2>) -> Tensor<2> {
        let (modules, params) = (self.model.modules(), self.model.params_ref());
        let x = self.text_norm(x, modules.norm);
        match modules.head {
            Some(head) => ops::linear(x, params.get(head), None, None, Activation::None),
            None => ops::tied_head(x, params.get(modules.embedding)),
        }
    }

    fn vision_norm(&self, x: Tensor<2>, scale: ParamId) -> Tensor<2> {
        ops::rms_norm(x, self.model.params_ref().get(scale), VISION_EPSILON)
    }

    fn text_norm(&self, x: Tensor<2>, scale: ParamId) -> Tensor<2> {
        let epsilon = self.model.config().text.rms_norm_eps;
        ops::rms_norm(x, self.model.params_ref().get(scale), epsilon)
    }

    fn mlp(&self, x: Tensor<2>, mlp: &Mlp, rows: Rows) -> Tensor<2> {
        let gate = self.linear(x.clone(), &mlp.gate, rows, Activation::None);
        let up = self.linear(x, &mlp.up, rows, Activation::None);
        self.linear(ops::swiglu(gate, up), &mlp.down, rows, Activation::None)
    }

    /// A linear layer with its adapter.
    pub(crate) fn linear(
        &self,
        x: Tensor<2>,
        layer: &Linear,
        rows: Rows,
        activation: Activation,
    ) -> Tensor<2> {
        let params = self.model.params_ref();
        let adapter = layer
            .adapter
            .zip(self.model.adapters())
            .map(|((a, b), lora)| {
                let key = self.options.dropout.as_ref().filter(|_| lora.dropout > 0.0);
                let width = x.dims()[1];
                let owners = || {
                    rows.ids
                        .iter()
                        .map(|id| &**id)
                        .zip(rows.counts.iter().copied())
                };
                Adapter {
                    a: params.get(a).clone(),
                    b: params.get(b).clone(),
                    scale: lora.scale(),
                    dropout: key
                        .map(|key| draw_dropout(key, &layer.name, lora.dropout, owners(), width)),
                }
            });
        let bias = layer.bias.map(|bias| params.get(bias));
        ops::linear(
            x,
            params.get(layer.weight),
            bias,
            adapter.as_ref(),
            activation,
        )
    }
}

/// Epsilon of the vision tower's normalisations, fixed in Transformers' `Qwen2_5_VLVisionBlock` and
/// `Qwen2_5_VLPatchMerger`.
const VISION_EPSILON: f64 = 1e-6;

impl<'a> Chain<'a> {
    /// All steps of a batch: vision blocks, merger, embedding, decoder layers, head.
    pub(crate) fn new(pass: Pass<'a>, batch: &'a Batch) -> Self {
        let mut chain = Self {
            steps: Vec::new(),
            trains: Vec::new(),
        };
        let modules = pass.model.modules();
        if let Some(plan) = &batch.vision {
            let rows = Rows {
                ids: &batch.image_ids,
                counts: &plan.image_rows,
            };
            chain.push("model.visual.patch_embed.", pass, move |x| {
                pass.embed_patches(x)
            });
            for (index, block) in modules.blocks.iter().enumerate() {
                let name = format!("model.visual.blocks.{index}.");
                chain.push(&name, pass, move |x| {
                    pass.vision_block(x, block, index, plan, rows)
                });
            }
            chain.push("model.visual.merger.", pass, move |x| pass.merge(x, rows));
        }
        let images = batch.vision.is_some();
        chain.push("model.language_model.embed_tokens.", pass, move |x| {
            pass.embed(images.then_some(x), batch)
        });
        for (index, layer) in modules.layers.iter().enumerate() {
            let name = format!("model.language_model.layers.{index}.");
            let last = index + 1 == modules.layers.len();
            chain.push(&name, pass, move |x| {
                pass.decoder_layer(x, layer, batch, last)
            });
        }
        chain.push("", pass, move |x| {
            let logits = pass.head(x);
            let in_order = batch
                .predictions
                .iter()
                .enumerate()
                .all(|(at, &row)| at == row as usize);
            match in_order && batch.predictions.len() == logits.dims()[0] {
                true => logits,
                false => ops::take_rows(logits, &batch.predictions),
            }
        });
        // The head's own weights are the last norm, and the embedding where it is tied.
        if let Some(head) = chain.trains.last_mut() {
            *head = true;
        }
        chain
    }

    fn push(&mut self, prefix: &str, pass: Pass<'_>, step: impl Fn(Tensor<2>) -> Tensor<2> + 'a) {
        let mut params = pass.model.params_ref().iter();
        let trains = params.any(|param| param.trainable && param.name.starts_with(prefix));
        self.steps.push(Box::new(step));
        self.trains.push(trains);
    }

    /// The logits, differentiable in all that is trainable.
    pub(crate) fn run(&self, x: Tensor<2>) -> Tensor<2> {
        self.steps.iter().fold(x, |x, step| step(x))
    }

    /// The logits as a leaf, and the input of each step.
    pub(crate) fn run_checkpointed(&self, x: Tensor<2>) -> (Tensor<2>, Vec<Tensor<2>>) {
        let mut inputs = Vec::with_capacity(self.steps.len());
        let mut x = x.inner();
        for step in &self.steps {
            inputs.push(x.clone());
            x = step(x.autodiff()).inner();
        }
        (x.autodiff().require_grad(), inputs)
    }

    /// Goes back from the gradient of the logits: each step is computed again from its input, and `take` gets the
    /// gradients of its weights.
    pub(crate) fn backward(
        &self,
        mut inputs: Vec<Tensor<2>>,
        pull: Tensor<2>,
        take: &mut dyn FnMut(Gradients),
    ) {
        let Some(lowest) = self.trains.iter().position(|&trains| trains) else {
            return;
        };
        let mut pull = pull.inner();
        for (index, step) in self.steps.iter().enumerate().rev() {
            let Some(input) = inputs.pop() else { return };
            let input = input.autodiff().require_grad();
            let mut gradients = ops::sent_back(step(input.clone()), pull).backward();
            let below = input.grad_remove(&mut gradients);
            take(gradients);
            match below {
                Some(below) if index > lowest => pull = below,
                _ => return,
            }
        }
    }
}

impl Pass<'_> {
    fn decoder_layer(
        &self,
        x: Tensor<2>,
        layer: &DecoderLayer,
        batch: &Batch,
        last: bool,
    ) -> Tensor<2> {
        let counts = |spans: &Spans, asked: bool| -> Vec<usize> {
            let count = |span: &ops::Span| {
                if asked {
                    span.queries.len()
                } else {
                    span.own.len()
                }
            };
            spans.iter().map(count).collect()
        };
        let spans = if last {
            &batch.asked_rows
        } else {
            &batch.all_rows
        };
        let (given, asked) = (counts(&batch.all_rows, false), counts(spans, true));
        let rows = |counts| Rows {
            ids: &batch.span_ids,
            counts,
        };
        self.layer(x, layer, batch, spans, [rows(&given), rows(&asked)])
    }
}

/// The patches of a batch as the first step takes them; without images an empty matrix.
pub(crate) fn patches(batch: &Batch, model: &QwenVl) -> Tensor<2> {
    let (rows, values) = match &batch.vision {
        Some(plan) => (plan.rows, plan.patches.clone()),
        None => (0, Vec::new()),
    };
    let width = model.config().vision.patch_values();
    if rows == 0 {
        return Tensor::from_data(
            TensorData::new(vec![0f32; width], [1, width]),
            model.device(),
        );
    }
    super::modules::tensor(values, [rows, width], model.device(), model.dtype())
}

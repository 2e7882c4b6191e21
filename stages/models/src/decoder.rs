//! The language model that the families share: pre-norm layers with grouped-query attention, rotary positions and
//! SwiGLU (Llama, Qwen2, Qwen3). What they differ in is data.

mod config;
mod swiglu;

use std::ops::Range;

use burn::tensor::Tensor;
use dcsft_tensor::ops::{self, Activation, KvCache, Rotary, Span, Spans};
use dcsft_tensor::params::ParamId;
use dcsft_vlm::lora::ModuleGroup;

use crate::batch::Batch;
use crate::modules::{Layers, Linear, RmsNorm};
use crate::pass::{Chain, Flow, Pass, Rows};

pub(crate) use config::{DECODER_FIELDS, frequencies};
pub use config::{DecoderConfig, HeadDim};
pub use swiglu::Swiglu;

/// A layer.
#[derive(Clone, Debug)]
struct Layer {
    name: String,
    norm1: RmsNorm,
    /// Queries, keys, values.
    qkv: [Linear; 3],
    /// Of the heads of queries and keys.
    head_norms: Option<[RmsNorm; 2]>,
    out: Linear,
    norm2: RmsNorm,
    mlp: Swiglu,
}

/// The decoder's layers.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Sizes and variants.
    pub config: DecoderConfig,
    /// The name of its module.
    prefix: &'static str,
    /// `[vocab, hidden]`.
    embedding: ParamId,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// The output head; none where it is the embedding.
    head: Option<Linear>,
}

/// The module of the output head.
pub(crate) const HEAD: &str = "lm_head";

impl Decoder {
    /// Declares the layers of the module `prefix`.
    pub fn new(layers: &mut Layers, prefix: &'static str, config: DecoderConfig) -> Self {
        const GROUP: ModuleGroup = ModuleGroup::Decoder;
        let (width, epsilon) = (config.hidden, config.epsilon);
        let table = format!("{prefix}.embed_tokens");
        let embedding = layers.table(GROUP, &table, [config.vocab, width]);
        let stack = (0..config.layers).map(|index| Layer::new(layers, prefix, index, &config));
        let stack = stack.collect();
        let norm = layers.rms_norm(GROUP, &format!("{prefix}.norm"), width, epsilon);
        let head =
            (!config.tied).then(|| layers.plain_linear(GROUP, HEAD, [width, config.vocab], false));
        Self {
            config,
            prefix,
            embedding,
            layers: stack,
            norm,
            head,
        }
    }

    /// The name of the embedding's table.
    pub(crate) fn table(&self) -> String {
        format!("{}.embed_tokens.weight", self.prefix)
    }

    /// Rows of the embedding.
    pub(crate) fn embed_tokens(&self, pass: Pass<'_>, tokens: &[u32]) -> Tensor<2> {
        ops::take_rows(pass.weight(self.embedding).clone(), tokens)
    }

    /// Adds the step that puts image tokens and text tokens in the order of the sequences.
    pub(crate) fn embed<'a>(&'a self, pass: Pass<'a>, batch: &'a Batch<'a>, chain: &mut Chain<'a>) {
        let images = batch.tower.is_some();
        chain.step(format!("{}.embed_tokens.", self.prefix), move |x| {
            let text = self.embed_tokens(pass, &batch.tokens);
            match images {
                true => ops::take_rows(Tensor::cat(vec![x, text], 0), &batch.sources),
                false => text,
            }
        });
    }

    /// Adds the steps from the embedded rows to the logits.
    pub(crate) fn steps<'a>(&'a self, pass: Pass<'a>, batch: &'a Batch<'a>, chain: &mut Chain<'a>) {
        self.steps_to_head(pass, batch, chain);
        chain.step(format!("{HEAD}."), move |x| {
            predictions(self.logits(pass, x), batch)
        });
        if self.config.tied {
            // Its weight has the embedding's name.
            chain.last_trains();
        }
    }

    /// As [`Decoder::steps`], without the head.
    pub(crate) fn steps_to_head<'a>(
        &'a self,
        pass: Pass<'a>,
        batch: &'a Batch<'a>,
        chain: &mut Chain<'a>,
    ) {
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            chain.wide_step(&layer.name, move |flow| {
                self.layer(pass, layer, flow, batch, last)
            });
        }
        chain.step(format!("{}.norm.", self.prefix), move |x| {
            pass.rms_norm(x, self.norm)
        });
    }

    /// Logits of what leaves the last of those steps.
    pub(crate) fn logits(&self, pass: Pass<'_>, x: Tensor<2>) -> Tensor<2> {
        match &self.head {
            Some(head) => pass.linear(x, head, Rows::NOBODY, Activation::None),
            None => ops::tied_head(x, pass.weight(self.embedding)),
        }
    }

    /// Logits of rows of the last layer.
    pub(crate) fn head(&self, pass: Pass<'_>, x: Tensor<2>) -> Tensor<2> {
        self.logits(pass, pass.rms_norm(x, self.norm))
    }

    fn layer(
        &self,
        pass: Pass<'_>,
        layer: &Layer,
        flow: Flow,
        batch: &Batch<'_>,
        last: bool,
    ) -> Flow {
        let spans = batch.spans(last);
        let given = counts(&batch.all_rows, |span| &span.own);
        let asked = counts(spans, |span| &span.queries);
        let rows = |counts| Rows {
            ids: &batch.span_ids,
            counts,
        };
        let qkv = layer.qkv(
            pass,
            &self.config,
            flow.x.clone(),
            &batch.rotary,
            rows(&given),
        );
        let mixed = ops::attention(qkv, spans, self.config.heads());
        let x = layer.finish(pass, taken(flow.x, spans), mixed, rows(&asked));
        added(x, flow.aside, batch, last)
    }

    /// All layers on a batch of prompts, whose keys and values `cache` takes; gives what leaves the last.
    pub(crate) fn prefill(
        &self,
        pass: Pass<'_>,
        flow: Flow,
        batch: &Batch<'_>,
        cache: &mut KvCache,
    ) -> Tensor<2> {
        let (mut flow, heads) = (flow, self.config.heads());
        cache.enter(&batch.prompts);
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            let spans = batch.spans(last);
            let (x, rotary) = (flow.x.clone(), &batch.rotary);
            let qkv = layer.qkv(pass, &self.config, x, rotary, Rows::NOBODY);
            cache.push(&qkv);
            let mixed = ops::attention(qkv, spans, heads);
            let x = layer.finish(pass, taken(flow.x, spans), mixed, Rows::NOBODY);
            flow = added(x, flow.aside, batch, last);
        }
        flow.x
    }

    /// All layers on rows that each attend to what `attend` lets them; it gets the layer's index and its queries, keys
    /// and values.
    pub(crate) fn decode(
        &self,
        pass: Pass<'_>,
        mut x: Tensor<2>,
        rotary: &Rotary,
        mut attend: impl FnMut(usize, Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        for (index, layer) in self.layers.iter().enumerate() {
            let qkv = layer.qkv(pass, &self.config, x.clone(), rotary, Rows::NOBODY);
            x = layer.finish(pass, x, attend(index, qkv), Rows::NOBODY);
        }
        x
    }
}

/// The rows that predict labels, in the order of these.
pub(crate) fn predictions(x: Tensor<2>, batch: &Batch<'_>) -> Tensor<2> {
    let rows = batch.predictions.iter().enumerate();
    let in_order = rows.clone().all(|(at, &row)| at == row as usize);
    match in_order && batch.predictions.len() == x.dims()[0] {
        true => x,
        false => ops::take_rows(x, &batch.predictions),
    }
}

fn counts(spans: &Spans, rows: fn(&Span) -> &Range<usize>) -> Vec<usize> {
    spans.iter().map(|span| rows(span).len()).collect()
}

/// The rows that spans ask for.
fn taken(x: Tensor<2>, spans: &Spans) -> Tensor<2> {
    match spans.outputs() == x.dims()[0] {
        true => x,
        false => ops::take_rows(x, &spans.query_rows()),
    }
}

/// Adds what the tower put aside for this layer to the rows of image tokens, as DeepStack does (Meng et al. 2024).
fn added(x: Tensor<2>, mut aside: Vec<Tensor<2>>, batch: &Batch<'_>, last: bool) -> Flow {
    if aside.is_empty() {
        return x.into();
    }
    let features = aside.remove(0);
    let nothing = features.clone().slice([0..1, 0..x.dims()[1]]).zeros_like();
    let features = Tensor::cat(vec![features, nothing], 0);
    Flow {
        x: x + ops::take_rows(features, &batch.image_sources(last)),
        aside,
    }
}

impl Layer {
    fn new(layers: &mut Layers, prefix: &str, index: usize, config: &DecoderConfig) -> Self {
        const GROUP: ModuleGroup = ModuleGroup::Decoder;
        let name = format!("{prefix}.layers.{index}");
        let (width, epsilon) = (config.hidden, config.epsilon);
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let norm1 = layers.rms_norm(GROUP, &format!("{name}.input_layernorm"), width, epsilon);
        let qkv = [("q", queries), ("k", keys), ("v", keys)].map(|(part, output)| {
            let name = format!("{name}.self_attn.{part}_proj");
            layers.linear(GROUP, &name, [width, output], config.qkv_bias)
        });
        let out = format!("{name}.self_attn.o_proj");
        let out = layers.linear(GROUP, &out, [queries, width], false);
        let head_norms = config.head_norm.then(|| {
            ["q", "k"].map(|part| {
                let name = format!("{name}.self_attn.{part}_norm");
                layers.rms_norm(GROUP, &name, config.head_dim, epsilon)
            })
        });
        let norm2 = format!("{name}.post_attention_layernorm");
        Self {
            norm1,
            qkv,
            head_norms,
            out,
            norm2: layers.rms_norm(GROUP, &norm2, width, epsilon),
            mlp: Swiglu::new(
                layers,
                GROUP,
                &format!("{name}.mlp"),
                [width, config.intermediate],
                false,
            ),
            name: format!("{name}."),
        }
    }

    /// Queries, keys and values, turned by their positions.
    fn qkv(
        &self,
        pass: Pass<'_>,
        config: &DecoderConfig,
        x: Tensor<2>,
        rotary: &Rotary,
        rows: Rows<'_>,
    ) -> Tensor<2> {
        let x = pass.rms_norm(x, self.norm1);
        let parts = self.qkv.each_ref();
        let mut parts = parts.map(|part| pass.linear(x.clone(), part, rows, Activation::None));
        if let Some(norms) = self.head_norms {
            for (part, norm) in parts.iter_mut().zip(norms) {
                let [count, width] = part.dims();
                let heads = width / config.head_dim;
                let apart = part.clone().reshape([count * heads, config.head_dim]);
                *part = pass.rms_norm(apart, norm).reshape([count, width]);
            }
        }
        let packed = Tensor::cat(parts.to_vec(), 1);
        ops::rotate(packed, rotary, config.heads + config.kv_heads)
    }

    /// What follows attention.
    fn finish(&self, pass: Pass<'_>, x: Tensor<2>, mixed: Tensor<2>, rows: Rows<'_>) -> Tensor<2> {
        let x = x + pass.linear(mixed, &self.out, rows, Activation::None);
        let hidden = self
            .mlp
            .apply(pass, pass.rms_norm(x.clone(), self.norm2), rows);
        x + hidden
    }
}

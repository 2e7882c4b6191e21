//! The layers of Qwen2.5-VL: their names, shapes and where their weights come from.

use burn::tensor::{DType, Device, Tensor, TensorData};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::ModuleGroup;
use dcsft_vlm::params::{Param, ParamId, ParamSet};
use dcsft_vlm::rng::StreamKey;
use half::bf16;

use crate::checkpoint::{Checkpoint, Layout};
use crate::export::HEAD;
use crate::names;
use crate::qwen2_5_vl::config::QwenConfig;

/// A linear layer, `x @ weight + bias`, and the adapter on it if there is one.
#[derive(Clone)]
pub(crate) struct Linear {
    /// Dotted name of the module.
    pub(crate) name: String,
    /// `[in, out]`.
    pub(crate) weight: ParamId,
    /// `[1, out]`.
    pub(crate) bias: Option<ParamId>,
    /// The adapter's `[in, rank]` and `[rank, out]`.
    pub(crate) adapter: Option<(ParamId, ParamId)>,
}

/// A SwiGLU layer.
#[derive(Clone)]
pub(crate) struct Mlp {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// A block of the vision tower.
#[derive(Clone)]
pub(crate) struct VisionBlock {
    pub(crate) norm1: ParamId,
    pub(crate) qkv: Linear,
    pub(crate) proj: Linear,
    pub(crate) norm2: ParamId,
    pub(crate) mlp: Mlp,
}

/// A layer of the decoder.
#[derive(Clone)]
pub(crate) struct DecoderLayer {
    pub(crate) norm1: ParamId,
    /// Queries, keys, values.
    pub(crate) qkv: [Linear; 3],
    pub(crate) out: Linear,
    pub(crate) norm2: ParamId,
    pub(crate) mlp: Mlp,
}

/// All layers.
#[derive(Clone)]
pub(crate) struct Modules {
    pub(crate) patch: Linear,
    pub(crate) blocks: Vec<VisionBlock>,
    pub(crate) merger_norm: ParamId,
    pub(crate) merger: [Linear; 2],
    /// `[vocab, hidden]`.
    pub(crate) embedding: ParamId,
    pub(crate) layers: Vec<DecoderLayer>,
    pub(crate) norm: ParamId,
    /// The output head, `[hidden, vocab]`; none where it is the embedding.
    pub(crate) head: Option<ParamId>,
}

impl Modules {
    /// The linear layers that adapters can be put on: as ms-swift's `--freeze_vit false --freeze_aligner false`
    /// adapts them, without patch embedding, token embedding and output head.
    pub(crate) fn adaptable(&mut self) -> Vec<(ModuleGroup, &mut Linear)> {
        let mut layers = Vec::new();
        for block in &mut self.blocks {
            let Mlp { gate, up, down } = &mut block.mlp;
            let own = [&mut block.qkv, &mut block.proj, gate, up, down];
            layers.extend(own.map(|layer| (ModuleGroup::Vision, layer)));
        }
        layers.extend(
            self.merger
                .each_mut()
                .map(|layer| (ModuleGroup::Projector, layer)),
        );
        for layer in &mut self.layers {
            let Mlp { gate, up, down } = &mut layer.mlp;
            let [q, k, v] = &mut layer.qkv;
            let own = [q, k, v, &mut layer.out, gate, up, down];
            layers.extend(own.map(|layer| (ModuleGroup::Decoder, layer)));
        }
        layers
    }
}

/// Where first weights come from.
pub(crate) enum Source<'a> {
    /// A checkpoint.
    Checkpoint(&'a mut Checkpoint),
    /// Random ones: matrices N(0, `std`²), norm scales 1, biases 0, each drawn from the stream of its own name.
    Random {
        /// Seed of all streams.
        seed: u64,
        /// Standard deviation of the matrices.
        std: f64,
    },
}

impl Source<'_> {
    fn values(
        &mut self,
        name: &str,
        shape: [usize; 2],
        layout: Layout,
    ) -> Result<Vec<f32>, VlmError> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.take(name, shape, layout),
            Self::Random { seed, std } => {
                let count = shape[0] * shape[1];
                if layout == Layout::Vector {
                    let value = if name.ends_with("bias") { 0.0 } else { 1.0 };
                    return Ok(vec![value; count]);
                }
                let mut stream = StreamKey::new("init", *seed).text(name).stream();
                Ok((0..count)
                    .map(|_| (stream.normal() * *std) as f32)
                    .collect())
            }
        }
    }
}

/// Builds the weights on `device` in the type `dtype`, all trainable.
pub(crate) fn build(
    config: &QwenConfig,
    mut source: Source<'_>,
    device: &Device,
    dtype: DType,
) -> Result<(Modules, ParamSet), VlmError> {
    if let Source::Checkpoint(checkpoint) = &mut source
        && config.tie_word_embeddings
    {
        // Some files hold the tied head a second time.
        checkpoint.skip(HEAD);
    }
    let mut params = ParamSet::default();
    let device = device.clone().autodiff();
    let mut push = |name: &str, shape: [usize; 2], layout: Layout| {
        let values = source.values(name, shape, layout)?;
        Ok(params.push(Param {
            name: name.to_owned(),
            value: tensor(values, shape, &device, dtype).require_grad(),
            trainable: true,
            decay: names::decays(name),
        }))
    };
    let modules = Builder { push: &mut push }.modules(config)?;
    Ok((modules, params))
}

/// Name, in-memory shape and layout of each weight of a model, in order.
pub(crate) fn shapes(config: &QwenConfig) -> Vec<(String, [usize; 2], Layout)> {
    let mut shapes = Vec::new();
    let mut push = |name: &str, shape: [usize; 2], layout: Layout| {
        shapes.push((name.to_owned(), shape, layout));
        Ok(ParamId(shapes.len() - 1))
    };
    // Noting down names cannot fail.
    let _ = Builder { push: &mut push }.modules(config);
    shapes
}

/// Takes a weight's name, in-memory shape and layout.
type Push<'a> = &'a mut dyn FnMut(&str, [usize; 2], Layout) -> Result<ParamId, VlmError>;

/// Walks through the layers.
struct Builder<'a> {
    push: Push<'a>,
}

impl Builder<'_> {
    fn modules(&mut self, config: &QwenConfig) -> Result<Modules, VlmError> {
        let (vision, text) = (&config.vision, &config.text);
        let (width, merged) = (
            vision.hidden_size,
            vision.hidden_size * vision.spatial_merge_size.pow(2),
        );
        let patch = "model.visual.patch_embed.proj";
        let decoder = "model.language_model";
        Ok(Modules {
            patch: self.linear(patch, vision.patch_values(), width, false)?,
            blocks: (0..vision.depth)
                .map(|index| self.vision_block(index, config))
                .collect::<Result<_, _>>()?,
            merger_norm: self.norm("model.visual.merger.ln_q", width)?,
            merger: [
                self.linear("model.visual.merger.mlp.0", merged, merged, true)?,
                self.linear(
                    "model.visual.merger.mlp.2",
                    merged,
                    vision.out_hidden_size,
                    true,
                )?,
            ],
            embedding: self.param(
                &format!("{decoder}.embed_tokens.weight"),
                [text.vocab_size, text.hidden_size],
                Layout::Plain,
            )?,
            layers: (0..text.layers)
                .map(|index| self.decoder_layer(index, config))
                .collect::<Result<_, _>>()?,
            norm: self.norm(&format!("{decoder}.norm"), text.hidden_size)?,
            head: match config.tie_word_embeddings {
                true => None,
                false => {
                    Some(self.param(HEAD, [text.hidden_size, text.vocab_size], Layout::Linear)?)
                }
            },
        })
    }

    fn vision_block(&mut self, index: usize, config: &QwenConfig) -> Result<VisionBlock, VlmError> {
        let name = format!("model.visual.blocks.{index}");
        let (width, inner) = (config.vision.hidden_size, config.vision.intermediate_size);
        Ok(VisionBlock {
            norm1: self.norm(&format!("{name}.norm1"), width)?,
            qkv: self.linear(&format!("{name}.attn.qkv"), width, 3 * width, true)?,
            proj: self.linear(&format!("{name}.attn.proj"), width, width, true)?,
            norm2: self.norm(&format!("{name}.norm2"), width)?,
            mlp: self.mlp(&name, width, inner, true)?,
        })
    }

    fn decoder_layer(
        &mut self,
        index: usize,
        config: &QwenConfig,
    ) -> Result<DecoderLayer, VlmError> {
        let name = format!("model.language_model.layers.{index}");
        let text = &config.text;
        let (width, queries) = (text.hidden_size, text.heads * text.head_dim);
        let keys = text.kv_heads * text.head_dim;
        Ok(DecoderLayer {
            norm1: self.norm(&format!("{name}.input_layernorm"), width)?,
            qkv: [
                self.linear(&format!("{name}.self_attn.q_proj"), width, queries, true)?,
                self.linear(&format!("{name}.self_attn.k_proj"), width, keys, true)?,
                self.linear(&format!("{name}.self_attn.v_proj"), width, keys, true)?,
            ],
            out: self.linear(&format!("{name}.self_attn.o_proj"), queries, width, false)?,
            norm2: self.norm(&format!("{name}.post_attention_layernorm"), width)?,
            mlp: self.mlp(&name, width, text.intermediate_size, false)?,
        })
    }

    fn mlp(&mut self, name: &str, width: usize, inner: usize, bias: bool) -> Result<Mlp, VlmError> {
        Ok(Mlp {
            gate: self.linear(&format!("{name}.mlp.gate_proj"), width, inner, bias)?,
            up: self.linear(&format!("{name}.mlp.up_proj"), width, inner, bias)?,
            down: self.linear(&format!("{name}.mlp.down_proj"), inner, width, bias)?,
        })
    }

    fn linear(
        &mut self,
        name: &str,
        input: usize,
        output: usize,
        bias: bool,
    ) -> Result<Linear, VlmError> {
        Ok(Linear {
            name: name.to_owned(),
            weight: self.param(&format!("{name}.weight"), [input, output], Layout::Linear)?,
            bias: match bias {
                true => Some(self.param(&format!("{name}.bias"), [1, output], Layout::Vector)?),
                false => None,
            },
            adapter: None,
        })
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<ParamId, VlmError> {
        self.param(&format!("{name}.weight"), [1, width], Layout::Vector)
    }

    fn param(
        &mut self,
        name: &str,
        shape: [usize; 2],
        layout: Layout,
    ) -> Result<ParamId, VlmError> {
        (self.push)(name, shape, layout)
    }
}

/// A tensor of the type `dtype`.
pub(crate) fn tensor(
    values: Vec<f32>,
    shape: [usize; 2],
    device: &Device,
    dtype: DType,
) -> Tensor<2> {
    let data = match dtype {
        DType::BF16 => {
            let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            TensorData::new(values, shape)
        }
        _ => TensorData::new(values, shape),
    };
    Tensor::from_data(data, (device, dtype))
}

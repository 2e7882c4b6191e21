//! The micro VLM's layers: their names, shapes and first values.

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_tensor::params::{Param, ParamId, ParamSet};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::lora::ModuleGroup;

use super::config::{BlocksConfig, MicroConfig};

/// A linear layer, `x @ weight + bias`, and the adapter on it if there is one.
#[derive(Clone)]
pub(crate) struct Linear {
    /// Dotted name of the layer.
    pub(crate) name: String,
    /// `[in, out]`.
    pub(crate) weight: ParamId,
    /// `[1, out]`.
    pub(crate) bias: ParamId,
    /// The adapter's `[in, rank]` and `[rank, out]`.
    pub(crate) adapter: Option<(ParamId, ParamId)>,
}

/// A layer normalisation's scale and shift, `[1, width]` each.
#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) scale: ParamId,
    pub(crate) shift: ParamId,
}

/// A pre-norm transformer block.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) norm1: Norm,
    pub(crate) qkv: Linear,
    pub(crate) out: Linear,
    pub(crate) norm2: Norm,
    pub(crate) fc1: Linear,
    pub(crate) fc2: Linear,
}

/// All layers of the model.
#[derive(Clone)]
pub(crate) struct Modules {
    pub(crate) patch: Linear,
    /// `[patches, width]`.
    pub(crate) vision_positions: ParamId,
    pub(crate) vision_blocks: Vec<Block>,
    pub(crate) vision_norm: Norm,
    pub(crate) projector: Linear,
    /// `[vocab, width]`.
    pub(crate) embedding: ParamId,
    /// `[patches + max_text_tokens, width]`.
    pub(crate) positions: ParamId,
    pub(crate) decoder_blocks: Vec<Block>,
    pub(crate) decoder_norm: Norm,
    pub(crate) head: Linear,
}

impl Modules {
    /// The linear layers that adapters can be put on.
    pub(crate) fn adaptable(&mut self) -> Vec<(ModuleGroup, &mut Linear)> {
        let mut layers = vec![(ModuleGroup::Vision, &mut self.patch)];
        for block in &mut self.vision_blocks {
            layers.extend(block.linears().map(|layer| (ModuleGroup::Vision, layer)));
        }
        layers.push((ModuleGroup::Projector, &mut self.projector));
        for block in &mut self.decoder_blocks {
            layers.extend(block.linears().map(|layer| (ModuleGroup::Decoder, layer)));
        }
        layers
    }
}

impl Block {
    fn linears(&mut self) -> [&mut Linear; 4] {
        [&mut self.qkv, &mut self.out, &mut self.fc1, &mut self.fc2]
    }
}

/// Builds the weights. Every weight is drawn from the stream of its own name, so that no draw depends on which
/// other weights there are.
pub(super) fn initialise(
    config: &MicroConfig,
    vocab: usize,
    seed: u64,
    device: &Device,
) -> (Modules, ParamSet) {
    let mut builder = Builder {
        params: ParamSet::default(),
        seed,
        device: device.clone().autodiff(),
    };
    let (vision, decoder) = (&config.vision, &config.decoder);
    let modules = Modules {
        patch: builder.linear("vision.patch", config.patch_values(), vision.width, 1.0),
        vision_positions: builder.normal(
            "vision.positions.weight",
            [config.patches(), vision.width],
            0.1,
        ),
        vision_blocks: builder.blocks("vision", vision),
        vision_norm: builder.norm("vision.norm", vision.width),
        projector: builder.linear("projector", vision.width, decoder.width, 1.0),
        embedding: builder.normal("decoder.embedding.weight", [vocab, decoder.width], 0.3),
        positions: builder.normal(
            "decoder.positions.weight",
            [config.positions(), decoder.width],
            0.1,
        ),
        decoder_blocks: builder.blocks("decoder", decoder),
        decoder_norm: builder.norm("decoder.norm", decoder.width),
        head: builder.linear("head", decoder.width, vocab, 1.0),
    };
    (modules, builder.params)
}

struct Builder {
    params: ParamSet,
    seed: u64,
    device: Device,
}

impl Builder {
    fn push(&mut self, name: &str, values: Vec<f32>, shape: [usize; 2], decay: bool) -> ParamId {
        let value = Tensor::from_data(TensorData::new(values, shape), &self.device).require_grad();
        self.params.push(Param {
            name: name.to_owned(),
            value,
            trainable: true,
            decay,
        })
    }

    fn normal(&mut self, name: &str, shape: [usize; 2], std: f64) -> ParamId {
        let mut stream = StreamKey::new("init", self.seed).text(name).stream();
        let values = (0..shape[0] * shape[1])
            .map(|_| (stream.normal() * std) as f32)
            .collect();
        self.push(name, values, shape, true)
    }

    fn constant(&mut self, name: &str, width: usize, value: f32) -> ParamId {
        self.push(name, vec![value; width], [1, width], false)
    }

    fn linear(&mut self, name: &str, input: usize, output: usize, gain: f64) -> Linear {
        Linear {
            name: name.to_owned(),
            weight: self.normal(
                &format!("{name}.weight"),
                [input, output],
                gain / libm::sqrt(input as f64),
            ),
            bias: self.constant(&format!("{name}.bias"), output, 0.0),
            adapter: None,
        }
    }

    fn norm(&mut self, name: &str, width: usize) -> Norm {
        Norm {
            scale: self.constant(&format!("{name}.weight"), width, 1.0),
            shift: self.constant(&format!("{name}.bias"), width, 0.0),
        }
    }

    /// The two layers that write into the residual stream start small.
    fn blocks(&mut self, tower: &str, config: &BlocksConfig) -> Vec<Block> {
        let (width, hidden) = (config.width, config.width * config.mlp_ratio);
        let block = |index| {
            let name = format!("{tower}.blocks.{index}");
            Block {
                norm1: self.norm(&format!("{name}.norm1"), width),
                qkv: self.linear(&format!("{name}.attn.qkv"), width, 3 * width, 1.0),
                out: self.linear(&format!("{name}.attn.out"), width, width, 0.3),
                norm2: self.norm(&format!("{name}.norm2"), width),
                fc1: self.linear(&format!("{name}.mlp.fc1"), width, hidden, 1.0),
                fc2: self.linear(&format!("{name}.mlp.fc2"), hidden, width, 0.3),
            }
        };
        (0..config.layers).map(block).collect()
    }
}

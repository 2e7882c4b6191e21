//! The micro VLM's layers: their names, shapes and first values.

use dcsft_tensor::params::ParamId;
use dcsft_vlm::lora::ModuleGroup;

use super::config::{BlocksConfig, MicroConfig};
use crate::checkpoint::Layout;
use crate::modules::{Declared, LayerNorm, Layers, Linear};

/// Epsilon of every layer normalisation.
const EPSILON: f64 = 1e-5;

/// A pre-norm transformer block.
#[derive(Clone)]
pub(super) struct Block {
    pub(super) norm1: LayerNorm,
    pub(super) qkv: Linear,
    pub(super) out: Linear,
    pub(super) norm2: LayerNorm,
    pub(super) fc1: Linear,
    pub(super) fc2: Linear,
}

/// All layers of the model.
#[derive(Clone)]
pub(super) struct Modules {
    pub(super) patch: Linear,
    /// `[patches, width]`.
    pub(super) vision_positions: ParamId,
    pub(super) vision_blocks: Vec<Block>,
    pub(super) vision_norm: LayerNorm,
    pub(super) projector: Linear,
    /// `[vocab, width]`.
    pub(super) embedding: ParamId,
    /// `[patches + max_text_tokens, width]`.
    pub(super) positions: ParamId,
    pub(super) decoder_blocks: Vec<Block>,
    pub(super) decoder_norm: LayerNorm,
    pub(super) head: Linear,
}

impl Modules {
    /// Declares the layers in the order in which their weights are read.
    pub(super) fn new(layers: &mut Layers, config: &MicroConfig, vocab: usize) -> Self {
        use ModuleGroup::{Decoder, Projector, Vision};
        let (vision, decoder) = (&config.vision, &config.decoder);
        let sizes = [config.patch_values(), vision.width];
        Self {
            patch: layers.linear(Vision, "vision.patch", sizes, true),
            vision_positions: layers.table(
                Vision,
                "vision.positions",
                [config.patches(), vision.width],
            ),
            vision_blocks: blocks(layers, Vision, "vision", vision),
            vision_norm: layers.layer_norm(Vision, "vision.norm", vision.width, EPSILON),
            projector: layers.linear(Projector, "projector", [vision.width, decoder.width], true),
            embedding: layers.table(Decoder, "decoder.embedding", [vocab, decoder.width]),
            positions: layers.table(
                Decoder,
                "decoder.positions",
                [config.positions(), decoder.width],
            ),
            decoder_blocks: blocks(layers, Decoder, "decoder", decoder),
            decoder_norm: layers.layer_norm(Decoder, "decoder.norm", decoder.width, EPSILON),
            head: layers.plain_linear(Decoder, "head", [decoder.width, vocab], true),
        }
    }
}

fn blocks(
    layers: &mut Layers,
    group: ModuleGroup,
    tower: &str,
    config: &BlocksConfig,
) -> Vec<Block> {
    let (width, hidden) = (config.width, config.width * config.mlp_ratio);
    let block = |index| {
        let name = |part: &str| format!("{tower}.blocks.{index}.{part}");
        Block {
            norm1: layers.layer_norm(group, &name("norm1"), width, EPSILON),
            qkv: layers.linear(group, &name("attn.qkv"), [width, 3 * width], true),
            out: layers.linear(group, &name("attn.out"), [width, width], true),
            norm2: layers.layer_norm(group, &name("norm2"), width, EPSILON),
            fc1: layers.linear(group, &name("mlp.fc1"), [width, hidden], true),
            fc2: layers.linear(group, &name("mlp.fc2"), [hidden, width], true),
        }
    };
    (0..config.layers).map(block).collect()
}

/// Standard deviation of a matrix at first. The two layers of a block that write into the residual stream start small.
pub(super) fn first_deviation(weight: &Declared) -> f64 {
    let ends = |end: &str| weight.name.ends_with(end);
    match weight.layout {
        Layout::Plain if ends("embedding.weight") => 0.3,
        Layout::Plain => 0.1,
        _ => {
            let small = ends("attn.out.weight") || ends("mlp.fc2.weight");
            let gain = if small { 0.3 } else { 1.0 };
            gain / libm::sqrt(weight.shape[0] as f64)
        }
    }
}

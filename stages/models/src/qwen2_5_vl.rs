//! Qwen2.5-VL: a vision tower with window attention and a causal decoder with multimodal rotary positions (Bai et al.
//! 2025), as `Qwen2_5_VLForConditionalGeneration` of Transformers computes it.

pub mod config;
pub mod vision;

use std::sync::Arc;

use burn::tensor::Tensor;
use dcsft_tensor::ops::{self, Activation, Heads, Pixels};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::ModuleGroup;
use serde_json::{Map, Value};

use crate::decoder::{Decoder, DecoderConfig, Swiglu};
use crate::family::{Encode, Facts, Family, Kind};
use crate::modules::{Layers, Linear, RmsNorm};
use crate::names::Names;
use crate::pass::{Chain, Pass, Rows};
use crate::processor::{Files, ImageSettings, Images, Patches};
use crate::tower::{ImageCost, Tower, TowerShape};
use config::{QwenConfig, VisionConfig};
use vision::VisionPlan;

/// Published files say `model.layers.0...` and `visual...`.
pub const NAMES: Names = Names(&[
    ("visual.", "model.visual."),
    ("model.", "model.language_model."),
]);

/// The family as it is registered.
pub const KIND: Kind = Kind {
    name: "qwen2_5_vl",
    aliases: &[],
    architectures: &["Qwen2_5_VLForConditionalGeneration"],
    names: NAMES,
    read,
};

/// Epsilon of the vision tower's normalisations, fixed in Transformers' `Qwen2_5_VLVisionBlock` and
/// `Qwen2_5_VLPatchMerger`.
const VISION_EPSILON: f64 = 1e-6;

/// A block of the vision tower.
struct Block {
    name: String,
    norm1: RmsNorm,
    qkv: Linear,
    proj: Linear,
    norm2: RmsNorm,
    mlp: Swiglu,
}

/// A configuration with its layers.
struct QwenVl {
    vision: VisionConfig,
    facts: Facts,
    patch: Linear,
    blocks: Vec<Block>,
    merger_norm: RmsNorm,
    merger: [Linear; 2],
    decoder: Decoder,
}

fn read(raw: &Map<String, Value>, layers: &mut Layers) -> Result<Box<dyn Family>, String> {
    const VISION: ModuleGroup = ModuleGroup::Vision;
    const PROJECTOR: ModuleGroup = ModuleGroup::Projector;
    let config = config::parse(raw)?;
    let vision = config.vision.clone();
    let (width, merged) = (vision.hidden_size, vision.merged());
    let kernel = [
        width,
        vision.in_channels,
        vision.temporal_patch_size,
        vision.patch_size,
        vision.patch_size,
    ];
    let patch = layers.convolution(VISION, "model.visual.patch_embed.proj", &kernel, false);
    let blocks = (0..vision.depth).map(|index| Block::new(layers, index, &vision));
    let blocks = blocks.collect();
    let merger_norm = layers.rms_norm(PROJECTOR, "model.visual.merger.ln_q", width, VISION_EPSILON);
    let sizes = [
        ("0", [merged, merged]),
        ("2", [merged, vision.out_hidden_size]),
    ];
    let merger = sizes.map(|(part, sizes)| {
        layers.linear(
            PROJECTOR,
            &format!("model.visual.merger.mlp.{part}"),
            sizes,
            true,
        )
    });
    Ok(Box::new(QwenVl {
        facts: Facts {
            image_token: config.image_token_id,
            refused_tokens: vec![config.video_token_id],
            eos_tokens: config.eos_token_ids.clone(),
            initializer_range: config.initializer_range,
            depth: vision.depth,
        },
        decoder: Decoder::new(layers, "model.language_model", decoder(&config)),
        vision,
        patch,
        blocks,
        merger_norm,
        merger,
    }))
}

/// Of M-RoPE's sections the first turns with time, the second with height, the third with width (Wang et al. 2024).
fn decoder(config: &QwenConfig) -> DecoderConfig {
    let text = &config.text;
    let sections = text.mrope_section.iter().enumerate();
    let axes = sections.flat_map(|(section, &width)| std::iter::repeat_n(section % 3, width));
    DecoderConfig {
        hidden: text.hidden_size,
        layers: text.layers,
        heads: text.heads,
        kv_heads: text.kv_heads,
        head_dim: text.head_dim,
        intermediate: text.intermediate_size,
        vocab: text.vocab_size,
        context: text.max_position_embeddings,
        epsilon: text.rms_norm_eps,
        rope_theta: text.rope_theta,
        axes: axes.collect(),
        qkv_bias: true,
        head_norm: false,
        tied: config.tie_word_embeddings,
    }
}

impl Block {
    fn new(layers: &mut Layers, index: usize, vision: &VisionConfig) -> Self {
        const GROUP: ModuleGroup = ModuleGroup::Vision;
        let name = format!("model.visual.blocks.{index}");
        let (width, inner) = (vision.hidden_size, vision.intermediate_size);
        let norm1 = layers.rms_norm(GROUP, &format!("{name}.norm1"), width, VISION_EPSILON);
        let qkv = layers.linear(GROUP, &format!("{name}.attn.qkv"), [width, 3 * width], true);
        let proj = layers.linear(GROUP, &format!("{name}.attn.proj"), [width, width], true);
        let norm2 = layers.rms_norm(GROUP, &format!("{name}.norm2"), width, VISION_EPSILON);
        let mlp = Swiglu::new(layers, GROUP, &format!("{name}.mlp"), [width, inner], true);
        Self {
            norm1,
            qkv,
            proj,
            norm2,
            mlp,
            name: format!("{name}."),
        }
    }
}

impl Family for QwenVl {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn images(&self, files: &Files, _: Option<Encode<'_>>) -> Result<Arc<dyn Images>, VlmError> {
        let patches = self.vision.patch_sizes();
        let settings = ImageSettings::find(files, &patches, self.facts.image_token)?;
        Ok(Arc::new(settings))
    }

    fn tower<'a>(&'a self, ids: Vec<Arc<str>>, images: &[&Patches]) -> Box<dyn Tower + 'a> {
        Box::new(Pictures {
            model: self,
            ids,
            plan: VisionPlan::new(images, &self.vision),
        })
    }

    fn tower_shape(&self) -> TowerShape {
        let vision = &self.vision;
        let window = (vision.window_size / vision.patch_size).pow(2);
        let windows = (0..vision.depth)
            .map(|block| (!vision.full_attention_blocks.contains(&block)).then_some(window));
        let (block, merged) = (vision.block(), vision.merged());
        TowerShape {
            patch_values: vision.patch_values(),
            patch_pixels: vision.patch_size.pow(2),
            width: vision.hidden_size,
            inner: vision.intermediate_size,
            heads: vision.heads,
            gated: true,
            windows: windows.collect(),
            mergers: vec![vec![
                (block, [merged, merged]),
                (block, [merged, vision.out_hidden_size]),
            ]],
        }
    }

    fn image_cost(&self, pixels: f64, limits: [f64; 2]) -> ImageCost {
        self.vision.patch_sizes().cost(pixels, limits)
    }
}

/// The images of a batch.
struct Pictures<'a> {
    model: &'a QwenVl,
    ids: Vec<Arc<str>>,
    plan: VisionPlan,
}

impl Tower for Pictures<'_> {
    fn pixels(&self) -> &Pixels {
        &self.plan.pixels
    }

    fn row_of(&self, token: usize) -> usize {
        self.plan.place[token] as usize
    }

    fn steps<'a>(&'a self, pass: Pass<'a>, chain: &mut Chain<'a>) {
        let model = self.model;
        let order = model.vision.convolution_order();
        chain.step("model.visual.patch_embed.", move |x| {
            let kernel = pass.weight(model.patch.weight).clone();
            ops::convolve(x, &ops::take_rows(kernel, &order))
        });
        for (index, block) in model.blocks.iter().enumerate() {
            let whole = model.vision.full_attention_blocks.contains(&index);
            chain.step(&block.name, move |x| self.block(pass, block, whole, x));
        }
        chain.step("model.visual.merger.", move |x| self.merge(pass, x));
    }
}

impl Pictures<'_> {
    fn block(&self, pass: Pass<'_>, block: &Block, whole: bool, x: Tensor<2>) -> Tensor<2> {
        let heads = self.model.vision.heads;
        let rows = Rows {
            ids: &self.ids,
            counts: &self.plan.image_rows,
        };
        let spans = match whole {
            true => &self.plan.frames,
            false => &self.plan.windows,
        };
        let normed = pass.rms_norm(x.clone(), block.norm1);
        let qkv = pass.linear(normed, &block.qkv, rows, Activation::None);
        let qkv = ops::rotate_wide(qkv, &self.plan.rotary, 2 * heads);
        let mixed = ops::attention(qkv, spans, Heads::all(heads));
        let x = x + pass.linear(mixed, &block.proj, rows, Activation::None);
        let normed = pass.rms_norm(x.clone(), block.norm2);
        x + block.mlp.apply(pass, normed, rows)
    }

    /// `[rows, width]` to `[rows / merge², decoder width]`.
    fn merge(&self, pass: Pass<'_>, x: Tensor<2>) -> Tensor<2> {
        let block = self.model.vision.block();
        let [count, width] = x.dims();
        let x = pass
            .rms_norm(x, self.model.merger_norm)
            .reshape([count / block, width * block]);
        let counts: Vec<usize> = self.plan.image_rows.iter().map(|n| n / block).collect();
        let rows = Rows {
            ids: &self.ids,
            counts: &counts,
        };
        let [first, second] = &self.model.merger;
        let x = pass.linear(x, first, rows, Activation::Gelu);
        pass.linear(x, second, rows, Activation::None)
    }
}

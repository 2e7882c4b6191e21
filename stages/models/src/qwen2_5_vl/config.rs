//! `config.json` of a Qwen2.5-VL checkpoint.
//!
//! Two layouts are in use. The published checkpoints keep the language model's settings at the top level
//! (`rope_theta`, `rope_scaling`, `torch_dtype`, `in_chans`); transformers 5 writes them into `text_config`
//! (`rope_parameters`, `dtype`, `in_channels`), and versions between the two write both. A setting is
//! looked for in `text_config`; where there is none, at the top level.
//!
//! Every field has its effect, or must have the value whose numbers are computed here ([`known`]).

mod known;

use serde_json::{Map, Value};

use crate::decoder::{DecoderConfig, HeadDim};
use crate::processor::PatchSizes;
use crate::rope;
use crate::section::{self, MOST_LAYERS, MOST_SIDE, Section};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct QwenConfig {
    /// The language model.
    pub text: TextConfig,
    /// The vision tower.
    pub vision: VisionConfig,
    /// `<|image_pad|>`: where an image's features take the place of embeddings.
    pub image_token_id: u32,
    /// `<|vision_start|>`.
    pub vision_start_token_id: u32,
    /// `<|vision_end|>`.
    pub vision_end_token_id: u32,
    /// `<|video_pad|>`.
    pub video_token_id: u32,
    /// The output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Tokens that end an answer where no `generation_config.json` names them.
    pub eos_token_ids: Vec<u32>,
    /// Standard deviation of weights that are drawn.
    pub initializer_range: f64,
    /// The type that the checkpoint says its weights have: `dtype`, formerly `torch_dtype`.
    pub dtype: Option<String>,
}

/// The language model: a decoder with grouped-query attention, M-RoPE, RMSNorm and SwiGLU.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the SwiGLU.
    pub intermediate_size: usize,
    /// Rows of the embedding matrix; the tokenizer may know fewer tokens.
    pub vocab_size: usize,
    /// Longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square under the root of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How many of the `head_dim / 2` frequencies take the temporal, the height and the width position.
    pub mrope_section: Vec<usize>,
}

/// The vision tower: a transformer over patches, most of its blocks attending within windows.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the SwiGLU.
    pub intermediate_size: usize,
    /// Width of the merged features: the language model's hidden size.
    pub out_hidden_size: usize,
    /// Colour channels.
    pub in_channels: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Frames in a patch; an image is repeated that often.
    pub temporal_patch_size: usize,
    /// Side of the square of patches that becomes one token.
    pub spatial_merge_size: usize,
    /// Side of an attention window, in pixels.
    pub window_size: usize,
    /// Indices of the blocks that attend to the whole image.
    pub full_attention_blocks: Vec<usize>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

impl VisionConfig {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// Values of a patch: channels, frames, rows, columns.
    pub fn patch_values(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Patches that become one token.
    pub fn block(&self) -> usize {
        self.spatial_merge_size.pow(2)
    }

    /// Width of the patches that become one token.
    pub fn merged(&self) -> usize {
        self.hidden_size * self.block()
    }

    /// How images are cut.
    pub fn patch_sizes(&self) -> PatchSizes {
        PatchSizes {
            patch: self.patch_size,
            temporal: self.temporal_patch_size,
            merge: self.spatial_merge_size,
        }
    }

    /// Where the values of a patch stand in it, in the order of frames, rows, columns, channels: the order in which
    /// PyTorch's convolution adds up their products on CPUs.
    pub fn convolution_order(&self) -> Vec<u32> {
        let channel = self.patch_values() / self.in_channels;
        (0..channel)
            .flat_map(|at| (0..self.in_channels).map(move |index| (index * channel + at) as u32))
            .collect()
    }
}

/// Reads the fields of a `config.json`.
///
/// # Errors
/// A field that is missing or of the wrong kind, sizes that do not fit together, a variant that is not built (sliding
/// windows, scaled rotary positions, another activation, quantised weights), a field that nothing is known of.
pub fn parse(top: &Map<String, Value>) -> Result<QwenConfig, String> {
    known::check(top)?;
    let root = Section::root(top);
    let text = root.below("text_config")?;
    let text = if text.is_empty() {
        Section::root(top)
    } else {
        text
    };
    let vision = root.below("vision_config")?;
    if vision.is_empty() {
        return Err("`vision_config` is missing".into());
    }
    let config = QwenConfig {
        text: text_config(&text)?,
        vision: vision_config(&vision)?,
        image_token_id: root.token("image_token_id")?,
        vision_start_token_id: root.token("vision_start_token_id")?,
        vision_end_token_id: root.token("vision_end_token_id")?,
        video_token_id: root.token("video_token_id")?,
        tie_word_embeddings: section::tied(&root, &text)?,
        eos_token_ids: section::end_tokens(&root, &text)?,
        initializer_range: section::initializer_range(&text)?,
        dtype: section::dtype(&root, &text)?,
    };
    check_together(&config)?;
    Ok(config)
}

fn text_config(section: &Section<'_>) -> Result<TextConfig, String> {
    section.only_activation("silu")?;
    if section.boolean("use_sliding_window")? == Some(true)
        || section
            .get("layer_types")
            .and_then(|(_, types)| types.as_array())
            .is_some_and(|types| types.iter().any(|kind| kind != "full_attention"))
    {
        return Err(
            "sliding-window attention is in use, which is not supported; \
             Qwen2.5-VL is published with `use_sliding_window: false`, and every layer of `layer_types` is \
             \"full_attention\""
                .into(),
        );
    }
    let sizes = DecoderConfig::read(section, HeadDim::OfHidden)?;
    let head_dim = sizes.head_dim;
    let (rope_theta, mrope_section) = text_rope(section)?;
    let frequencies: usize = mrope_section.iter().sum();
    if mrope_section.len() != 3 || !head_dim.is_multiple_of(2) || frequencies != head_dim / 2 {
        return Err(format!(
            "`mrope_section` {mrope_section:?} must be three numbers that sum to half of the head's width {head_dim}"
        ));
    }
    Ok(TextConfig {
        hidden_size: sizes.hidden,
        layers: sizes.layers,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_dim,
        intermediate_size: sizes.intermediate,
        vocab_size: sizes.vocab,
        max_position_embeddings: sizes.context,
        rms_norm_eps: sizes.epsilon,
        rope_theta,
        mrope_section,
    })
}

/// The base and `mrope_section`.
fn text_rope(section: &Section<'_>) -> Result<(f64, Vec<usize>), String> {
    let groups = ["rope_parameters", "rope_scaling"];
    if groups.into_iter().all(|name| section.get(name).is_none()) {
        return Err(
            "`rope_scaling` (now `rope_parameters`) with `mrope_section` is missing".into(),
        );
    }
    let rope = rope::read(section, &["default", "mrope"])?;
    if rope.interleaved {
        return Err(
            "`mrope_interleaved` is true, and the axes of this family do not take turns".into(),
        );
    }
    let missing = || format!("`{}mrope_section` is missing", rope.prefix);
    Ok((rope.theta, rope.sections.ok_or_else(missing)?))
}

/// A field that the file leaves out has the value of transformers' `Qwen2_5_VLVisionConfig`: its writer
/// drops fields that equal it.
fn vision_config(section: &Section<'_>) -> Result<VisionConfig, String> {
    section.only_activation("silu")?;
    let channels = section.size_or("in_chans", 3)?;
    let rope = section.below("rope_parameters")?;
    for object in rope.objects() {
        rope::check_axial(rope.prefix(), object)?;
    }
    let patch_size = section.size_or("patch_size", 14)?;
    if section.size_or("spatial_patch_size", patch_size)? != patch_size {
        return Err("`vision_config.spatial_patch_size` is not `vision_config.patch_size`".into());
    }
    let config = VisionConfig {
        depth: match section.get("depth") {
            Some(_) => section.size_up_to("depth", MOST_LAYERS)?,
            None => 32,
        },
        hidden_size: section.size_or("hidden_size", 3584)?,
        heads: section.size_or("num_heads", 16)?,
        intermediate_size: section.size_or("intermediate_size", 3420)?,
        out_hidden_size: section.size_or("out_hidden_size", 3584)?,
        in_channels: section.size_or("in_channels", channels)?,
        patch_size,
        temporal_patch_size: section.size_or("temporal_patch_size", 2)?,
        spatial_merge_size: section.size_or("spatial_merge_size", 2)?,
        window_size: section.size_or("window_size", 112)?,
        full_attention_blocks: match section.get("fullatt_block_indexes") {
            Some(_) => section.indices("fullatt_block_indexes")?,
            None => vec![7, 15, 23, 31],
        },
        rope_theta: match rope.get("rope_theta") {
            Some(_) => rope.positive("rope_theta")?,
            None => 10_000.0,
        },
    };
    check_vision(&config).map_err(|problem| format!("vision_config: {problem}"))?;
    Ok(config)
}

fn check_vision(config: &VisionConfig) -> Result<(), String> {
    let VisionConfig {
        hidden_size, heads, ..
    } = *config;
    if !hidden_size.is_multiple_of(heads) || !config.head_dim().is_multiple_of(4) {
        return Err(format!(
            "the hidden size {hidden_size} must be a multiple of 4 times the {heads} heads"
        ));
    }
    if config.in_channels != 3 {
        return Err(format!(
            "{} colour channels; images have 3",
            config.in_channels
        ));
    }
    if let Some(block) = config
        .full_attention_blocks
        .iter()
        .find(|&&block| block >= config.depth)
    {
        return Err(format!(
            "`fullatt_block_indexes` names block {block}, and there are {}",
            config.depth
        ));
    }
    for (name, side) in [
        ("patch_size", config.patch_size),
        ("temporal_patch_size", config.temporal_patch_size),
        ("spatial_merge_size", config.spatial_merge_size),
    ] {
        if side > MOST_SIDE {
            return Err(format!(
                "`{name}` is {side}, and {MOST_SIDE} is the most that can be read"
            ));
        }
    }
    let token = config.patch_size * config.spatial_merge_size;
    if config.window_size < token {
        return Err(format!(
            "a window of {} pixels is smaller than one token's {token}",
            config.window_size
        ));
    }
    Ok(())
}

fn check_together(config: &QwenConfig) -> Result<(), String> {
    let (out, hidden) = (config.vision.out_hidden_size, config.text.hidden_size);
    if out != hidden {
        return Err(format!(
            "`vision_config.out_hidden_size` is {out}, and the language model's hidden size {hidden}"
        ));
    }
    let rows = config.text.vocab_size;
    for (name, token) in [
        ("image_token_id", config.image_token_id),
        ("vision_start_token_id", config.vision_start_token_id),
        ("vision_end_token_id", config.vision_end_token_id),
        ("video_token_id", config.video_token_id),
    ] {
        if token as usize >= rows {
            return Err(format!(
                "`{name}` is {token}, and the vocabulary has {rows} rows"
            ));
        }
    }
    Ok(())
}

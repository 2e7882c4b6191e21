//! `config.json` of a Qwen3-VL checkpoint: published with `rope_scaling`, by Transformers 5 with `rope_parameters`.

use serde_json::{Map, Value};

use crate::decoder::{DECODER_FIELDS, DecoderConfig, HeadDim};
use crate::family::Facts;
use crate::fields::{Known, Only};
use crate::processor::PatchSizes;
use crate::rope::{self, Rope};
use crate::section::{self, MOST_LAYERS, MOST_SIDE, Section};

const TOP: Known = Known {
    read: &[&[
        "image_token_id",
        "text_config",
        "tie_word_embeddings",
        "video_token_id",
        "vision_config",
        "vision_end_token_id",
        "vision_start_token_id",
    ]],
    ..Known::SECTION
};

const TEXT: Known = Known {
    read: &[DECODER_FIELDS],
    only: &[&[
        ("attention_bias", Only::Off),
        ("attention_dropout", Only::Number(0.0)),
    ]],
    ..Known::SECTION
};

const VISION: Known = Known {
    read: &[&[
        "deepstack_visual_indexes",
        "depth",
        "hidden_act",
        "hidden_size",
        "in_channels",
        "intermediate_size",
        "num_heads",
        "num_position_embeddings",
        "out_hidden_size",
        "patch_size",
        "rope_parameters",
        "spatial_merge_size",
        "temporal_patch_size",
    ]],
    idle: &[&["initializer_range", "tie_word_embeddings"]],
    only: &[&[
        ("attention_dropout", Only::Number(0.0)),
        ("rope_theta", Only::Number(10_000.0)),
    ]],
    ..Known::SECTION
};

const TEXT_TYPES: &[&str] = &["qwen3_vl_text", "qwen3_vl"];
const VISION_TYPES: &[&str] = &["qwen3_vl_vision", "qwen3_vl"];

/// Sizes of the vision tower.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vision {
    /// Blocks.
    pub(super) depth: usize,
    /// Width of the residual stream.
    pub(super) width: usize,
    /// Width of the MLP.
    pub(super) inner: usize,
    /// Attention heads.
    pub(super) heads: usize,
    /// Side of the square table of positions.
    pub(super) side: usize,
    /// How images are cut.
    pub(super) patches: PatchSizes,
    /// Blocks whose rows are put aside for the decoder's first layers.
    pub(super) deepstack: Vec<usize>,
    /// Base of the rotary frequencies.
    pub(super) rope_theta: f64,
}

impl Vision {
    /// Values of a patch: channels, frames, rows, columns.
    pub(super) fn patch_values(&self) -> usize {
        3 * self.patches.temporal * self.patches.patch.pow(2)
    }

    /// Width of the patches that become one token.
    pub(super) fn merged(&self) -> usize {
        self.width * self.patches.merge.pow(2)
    }
}

/// Reads the fields of a `config.json`.
pub(super) fn parse(top: &Map<String, Value>) -> Result<(Vision, DecoderConfig, Facts), String> {
    TOP.check("", top)?;
    let root = Section::root(top);
    let (text, section) = (root.below("text_config")?, root.below("vision_config")?);
    text.check(&TEXT, TEXT_TYPES)?;
    section.check(&VISION, VISION_TYPES)?;
    let decoder = decoder(&root, &text)?;
    let vision = vision_config(&section, &decoder)?;
    let names = ["image", "video", "vision_start", "vision_end"];
    let mut tokens = [0; 4];
    for (name, token) in names.iter().zip(&mut tokens) {
        let name = format!("{name}_token_id");
        *token = root.token(&name)?;
        if *token as usize >= decoder.vocab {
            let rows = decoder.vocab;
            return Err(format!(
                "`{name}` is {token}, and the vocabulary has {rows} rows"
            ));
        }
    }
    let facts = Facts {
        image_token: tokens[0],
        refused_tokens: vec![tokens[1]],
        eos_tokens: section::end_tokens(&root, &text)?,
        initializer_range: section::initializer_range(&text)?,
        depth: vision.depth,
    };
    Ok((vision, decoder, facts))
}

fn decoder(root: &Section<'_>, text: &Section<'_>) -> Result<DecoderConfig, String> {
    let sizes = DecoderConfig::read(text, HeadDim::Any)?;
    let rope = rope::read(text, &["default", "mrope"])?;
    Ok(DecoderConfig {
        axes: axes(&rope, sizes.head_dim / 2)?,
        rope_theta: rope.theta,
        head_norm: true,
        tied: section::tied(root, text)?,
        ..sizes
    })
}

/// Height takes every third frequency from the second on, width every third from the third on, each as many as its
/// section says; time takes the others (Transformers' `apply_interleaved_mrope`, which does so whatever
/// `mrope_interleaved` says).
fn axes(rope: &Rope, count: usize) -> Result<Vec<usize>, String> {
    let sections = rope.sections.as_deref();
    let Some(&[time, height, width]) = sections
        .map(<[usize]>::as_ref)
        .and_then(|s| s.first_chunk())
    else {
        return Err(
            "`rope_parameters` (formerly `rope_scaling`) needs an `mrope_section` of three numbers"
                .into(),
        );
    };
    if time + height + width != count || sections.is_some_and(|sections| sections.len() != 3) {
        return Err(format!(
            "`mrope_section` {sections:?} must be three numbers that sum to half of the head's width {}",
            2 * count
        ));
    }
    if !rope.interleaved {
        return Err("`mrope_interleaved` must be true: the axes of this family take turns".into());
    }
    let axis = |frequency: usize| match frequency % 3 {
        1 if frequency < 3 * height => 1,
        2 if frequency < 3 * width => 2,
        _ => 0,
    };
    Ok((0..count).map(axis).collect())
}

/// A field that the file leaves out has the value of Transformers' `Qwen3VLVisionConfig`.
fn vision_config(section: &Section<'_>, decoder: &DecoderConfig) -> Result<Vision, String> {
    section.only_activation("gelu_pytorch_tanh")?;
    let side = |name: &str, default| match section.get(name) {
        Some(_) => section.size_up_to(name, MOST_SIDE),
        None => Ok(default),
    };
    let rope = section.below("rope_parameters")?;
    for object in rope.objects() {
        rope::check_axial(rope.prefix(), object)?;
    }
    let table = section.size_or("num_position_embeddings", 2304)?;
    let vision = Vision {
        depth: match section.get("depth") {
            Some(_) => section.size_up_to("depth", MOST_LAYERS)?,
            None => 27,
        },
        width: section.size_or("hidden_size", 1152)?,
        inner: section.size_or("intermediate_size", 4304)?,
        heads: section.size_or("num_heads", 16)?,
        side: table.isqrt(),
        patches: PatchSizes {
            patch: side("patch_size", 16)?,
            temporal: side("temporal_patch_size", 2)?,
            merge: side("spatial_merge_size", 2)?,
        },
        deepstack: match section.get("deepstack_visual_indexes") {
            Some(_) => section.indices("deepstack_visual_indexes")?,
            None => vec![8, 16, 24],
        },
        rope_theta: match rope.get("rope_theta") {
            Some(_) => rope.positive("rope_theta")?,
            None => 10_000.0,
        },
    };
    let (channels, out) = (
        section.size_or("in_channels", 3)?,
        section.size_or("out_hidden_size", 3584)?,
    );
    let problem = if channels != 3 {
        format!("{channels} colour channels; images have 3")
    } else if !vision.width.is_multiple_of(4 * vision.heads) {
        format!(
            "the hidden size {} must be a multiple of 4 times the {} heads",
            vision.width, vision.heads
        )
    } else if vision.side.pow(2) != table {
        format!("`num_position_embeddings` is {table}, which is no square")
    } else if out != decoder.hidden {
        format!(
            "`out_hidden_size` is {out}, and the language model's hidden size {}",
            decoder.hidden
        )
    } else if !vision.deepstack.is_sorted_by(|a, b| a < b)
        || vision
            .deepstack
            .last()
            .is_some_and(|&last| last >= vision.depth)
        || vision.deepstack.len() > decoder.layers
    {
        format!(
            "`deepstack_visual_indexes` {:?} must be ascending indices of the {} blocks, no more than the {} layers of the \
             language model",
            vision.deepstack, vision.depth, decoder.layers
        )
    } else {
        return Ok(vision);
    };
    Err(format!("vision_config: {problem}"))
}

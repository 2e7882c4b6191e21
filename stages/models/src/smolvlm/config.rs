//! `config.json` of a SmolVLM2 or Idefics3 checkpoint: published with `rope_theta`, by Transformers 5 with
//! `rope_parameters`.

use serde_json::{Map, Value};

use crate::decoder::{DECODER_FIELDS, DecoderConfig, HeadDim};
use crate::family::Facts;
use crate::fields::{Known, Only};
use crate::processor::images::block_order;
use crate::rope;
use crate::section::{self, MOST_LAYERS, Section};

const TOP: Known = Known {
    read: &[&[
        "image_token_id",
        "scale_factor",
        "text_config",
        "tie_word_embeddings",
        "vision_config",
        "vocab_size",
    ]],
    idle: &[&[
        "_pad_token_id",
        "image_seq_len",
        "use_reentrant_checkpointing",
    ]],
    ..Known::SECTION
};

/// Further settings stand in published files and are read by no version of Transformers.
const TEXT: Known = Known {
    read: &[DECODER_FIELDS],
    idle: &[&[
        "_flash_attn_2_enabled",
        "is_llama_config",
        "neftune_noise_alpha",
        "perceiver_config",
        "pixel_shuffle_factor",
        "pretraining_tp",
        "qk_layer_norms",
        "rope_interleaved",
        "use_resampler",
    ]],
    only: &[&[
        ("attention_bias", Only::Off),
        ("attention_dropout", Only::Number(0.0)),
        ("mlp_bias", Only::Off),
    ]],
    ..Known::SECTION
};

const VISION: Known = Known {
    read: &[&[
        "hidden_act",
        "hidden_size",
        "image_size",
        "intermediate_size",
        "layer_norm_eps",
        "num_attention_heads",
        "num_hidden_layers",
        "patch_size",
    ]],
    idle: &[&[
        "initializer_range",
        "max_image_size",
        "size",
        "tie_word_embeddings",
        "use_base_siglip",
    ]],
    only: &[&[
        ("attention_dropout", Only::Number(0.0)),
        ("num_channels", Only::Number(3.0)),
    ]],
    ..Known::SECTION
};

const TEXT_TYPES: &[&str] = &["llama"];
const VISION_TYPES: &[&str] = &["smolvlm_vision", "idefics3_vision", "smolvlm", "idefics3"];

/// Sizes of the vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct Vision {
    /// Blocks.
    pub depth: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the MLP.
    pub inner: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of a tile, in pixels.
    pub tile: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Epsilon of the normalisations.
    pub epsilon: f64,
    /// Side of the square of patches that becomes one token.
    pub shuffle: usize,
    /// The token that an image's features take the place of.
    pub image_token: u32,
}

impl Vision {
    /// Patches along a tile's side; what is left of it is dropped.
    pub fn side(&self) -> usize {
        self.tile / self.patch
    }

    /// Patches of a tile.
    pub fn patches(&self) -> usize {
        self.side().pow(2)
    }

    /// Tokens of a tile.
    pub fn tokens(&self) -> usize {
        self.patches() / self.shuffle.pow(2)
    }

    /// Width of the patches that become one token.
    pub fn shuffled(&self) -> usize {
        self.width * self.shuffle.pow(2)
    }

    /// The patches of a tile as the tower takes them, those of a token one after the other, by their places in raster
    /// order.
    pub fn places(&self) -> Vec<u32> {
        let side = self.side();
        let order = block_order(side, side, self.shuffle);
        order
            .map(|(row, column)| (row * side + column) as u32)
            .collect()
    }
}

/// Reads the fields of a `config.json`.
pub(crate) fn parse(top: &Map<String, Value>) -> Result<(Vision, DecoderConfig, Facts), String> {
    TOP.check("", top)?;
    let root = Section::root(top);
    let (text, vision) = (root.below("text_config")?, root.below("vision_config")?);
    for (section, known, types) in [(&text, &TEXT, TEXT_TYPES), (&vision, &VISION, VISION_TYPES)] {
        section.check(known, types)?;
    }
    let image_token = root.token("image_token_id")?;
    let vision = vision_config(&root, &vision, image_token)?;
    let decoder = decoder(&root, &text)?;
    let facts = Facts {
        image_token,
        refused_tokens: Vec::new(),
        // The published files name a token here that ends no answer; `generation_config.json` names the right one.
        eos_tokens: section::end_tokens(&root, &text)?,
        initializer_range: section::initializer_range(&text)?,
        depth: vision.depth,
    };
    if image_token as usize >= decoder.vocab {
        return Err(format!(
            "`image_token_id` is {image_token}, and the vocabulary has {} rows",
            decoder.vocab
        ));
    }
    Ok((vision, decoder, facts))
}

fn decoder(root: &Section<'_>, text: &Section<'_>) -> Result<DecoderConfig, String> {
    let rope = rope::read(text, &["default"])?;
    if rope.sections.is_some() {
        return Err(
            "`text_config` has an `mrope_section`, and positions of this family are plain".into(),
        );
    }
    let sizes = DecoderConfig::read(text, HeadDim::Any)?;
    if let Some(other) = root.optional_size("vocab_size")?
        && other != sizes.vocab
    {
        return Err(format!(
            "`vocab_size` is {other} and `text_config.vocab_size` {}; take out the one that is not meant",
            sizes.vocab
        ));
    }
    Ok(DecoderConfig {
        rope_theta: rope.theta,
        tied: section::tied(root, text)?,
        ..sizes
    })
}

/// A field that the file leaves out has the value of Transformers' `SmolVLMVisionConfig`.
fn vision_config(
    root: &Section<'_>,
    section: &Section<'_>,
    image_token: u32,
) -> Result<Vision, String> {
    section.only_activation("gelu_pytorch_tanh")?;
    let vision = Vision {
        depth: match section.get("num_hidden_layers") {
            Some(_) => section.size_up_to("num_hidden_layers", MOST_LAYERS)?,
            None => 12,
        },
        width: section.size_or("hidden_size", 1152)?,
        inner: section.size_or("intermediate_size", 3072)?,
        heads: section.size_or("num_attention_heads", 16)?,
        tile: section.size_or("image_size", 224)?,
        patch: section.size_or("patch_size", 32)?,
        epsilon: match section.get("layer_norm_eps") {
            Some(_) => section.positive("layer_norm_eps")?,
            None => 1e-6,
        },
        shuffle: root.size_or("scale_factor", 2)?,
        image_token,
    };
    let problem = if !vision.width.is_multiple_of(vision.heads) {
        format!(
            "{} attention heads do not divide the hidden size {}",
            vision.heads, vision.width
        )
    } else if vision.tile > MOST_TILE {
        format!(
            "`image_size` is {}, and {MOST_TILE} is the most that can be read",
            vision.tile
        )
    } else if vision.side() == 0 || !vision.side().is_multiple_of(vision.shuffle) {
        format!(
            "an image of {} pixels has {} patches of {} along a side, which cannot be put together in squares of {} \
             (`scale_factor`)",
            vision.tile,
            vision.side(),
            vision.patch,
            vision.shuffle
        )
    } else {
        return Ok(vision);
    };
    Err(format!("vision_config: {problem}"))
}

/// Pixels along a tile's side; published models have 512 at most.
const MOST_TILE: usize = 4096;

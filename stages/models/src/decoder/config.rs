//! Sizes of a decoder, and what its variants are told apart by.

use dcsft_tensor::ops::{Heads, Rotary};

use crate::section::{MOST_LAYERS, Section};

/// Fields of a language model's section that are read, here and by its family.
pub(crate) const DECODER_FIELDS: &[&str] = &[
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

/// Sizes and variants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the SwiGLU.
    pub intermediate: usize,
    /// Rows of the embedding; the tokenizer may know fewer tokens.
    pub vocab: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context: usize,
    /// Epsilon of the normalisations.
    pub epsilon: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// For each of the `head_dim / 2` frequencies the position that it turns with: 0 time, 1 height, 2 width. All are 0
    /// in a model of plain positions.
    pub axes: Vec<usize>,
    /// The layers of queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Each head of queries and keys is normalised before it is turned.
    pub head_norm: bool,
    /// The output head is the embedding.
    pub tied: bool,
}

/// What `head_dim` of a configuration may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadDim {
    /// The hidden size divided by the heads, whatever the file says.
    OfHidden,
    /// That, where the file does not say otherwise.
    Any,
}

impl DecoderConfig {
    /// The sizes in a section of a `config.json`; plain positions, no biases, a head of its own.
    pub(crate) fn read(section: &Section<'_>, head: HeadDim) -> Result<Self, String> {
        section.only_activation("silu")?;
        let hidden = section.size("hidden_size")?;
        let heads = section.size("num_attention_heads")?;
        let kv_heads = section.size_or("num_key_value_heads", heads)?;
        let given = section.optional_size("head_dim")?;
        if (head == HeadDim::OfHidden || given.is_none()) && !hidden.is_multiple_of(heads) {
            return Err(format!(
                "{heads} attention heads do not divide the hidden size {hidden}"
            ));
        }
        let head_dim = match head {
            HeadDim::OfHidden => hidden / heads,
            HeadDim::Any => given.unwrap_or(hidden / heads),
        };
        if let Some(other) = given.filter(|&other| other != head_dim) {
            return Err(format!(
                "`{}head_dim` is {other}; Transformers takes {head_dim}, the hidden size divided by the heads",
                section.prefix()
            ));
        }
        if head == HeadDim::Any && !head_dim.is_multiple_of(2) {
            return Err(format!(
                "heads of {head_dim} values cannot be turned in pairs"
            ));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "{kv_heads} key and value heads do not divide {heads} attention heads"
            ));
        }
        Ok(Self {
            hidden,
            layers: section.size_up_to("num_hidden_layers", MOST_LAYERS)?,
            heads,
            kv_heads,
            head_dim,
            intermediate: section.size("intermediate_size")?,
            vocab: section.size("vocab_size")?,
            context: section.size("max_position_embeddings")?,
            epsilon: section.positive("rms_norm_eps")?,
            rope_theta: 0.0,
            axes: vec![0; head_dim / 2],
            qkv_bias: false,
            head_norm: false,
            tied: false,
        })
    }

    /// Heads of an attention layer.
    pub fn heads(&self) -> Heads {
        Heads {
            queries: self.heads,
            keys: self.kv_heads,
        }
    }

    /// Rotary angles of tokens from their positions in time, height and width.
    pub fn rotary(&self, positions: &[[u32; 3]]) -> Rotary {
        let frequencies = frequencies(self.rope_theta, self.head_dim);
        let angle = |position: &[u32; 3]| {
            let pairs = frequencies.iter().zip(&self.axes);
            pairs
                .map(|(frequency, &axis)| position[axis] as f32 * frequency)
                .collect::<Vec<_>>()
        };
        let angles: Vec<f32> = positions.iter().flat_map(angle).collect();
        Rotary::new(&angles, self.head_dim / 2)
    }
}

/// `theta^(-2i / width)` for i below width / 2, in 32 bits as PyTorch computes them.
pub(crate) fn frequencies(theta: f64, width: usize) -> Vec<f32> {
    let exponent = |index: usize| (2 * index) as f32 / width as f32;
    (0..width / 2)
        .map(|index| 1.0 / libm::powf(theta as f32, exponent(index)))
        .collect()
}

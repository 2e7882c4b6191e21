//! What a model runs under that its checkpoint does not say, and where it was read from.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::DType;
use dcsft_tensor::quant::Bits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings a model runs under, beside its checkpoint.
pub const SETTINGS: &str = "dcsft.json";

/// Number type of weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of 32: half the memory, for GPUs. Adapters, losses and optimiser states stay in 32 bits.
    Bf16,
}

impl Precision {
    /// The tensors' type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// How the weights of linear layers are held that adapters can be on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Quantize {
    /// In the model's number type.
    #[default]
    #[serde(rename = "none")]
    None,
    /// In blocks of 32 whole numbers of 8 bits with a scale.
    #[serde(rename = "8bit")]
    Eight,
    /// In blocks of 32 whole numbers of 4 bits with a scale.
    #[serde(rename = "4bit")]
    Four,
}

impl Quantize {
    /// Weights are in the model's number type.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Bits of a number; none where weights are not quantised.
    pub fn bits(self) -> Option<Bits> {
        match self {
            Self::None => None,
            Self::Eight => Some(Bits::Eight),
            Self::Four => Some(Bits::Four),
        }
    }
}

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Eight => "8bit",
            Self::Four => "4bit",
        })
    }
}

/// What a model runs under that its checkpoint does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Number type.
    pub precision: Precision,
    /// How weights of linear layers are held.
    #[serde(skip_serializing_if = "Quantize::is_none")]
    pub quantize: Quantize,
    /// Least area of an image in pixels, in the place of the checkpoint's.
    pub min_pixels: Option<usize>,
    /// Largest area of an image in pixels, in the place of the checkpoint's.
    pub max_pixels: Option<usize>,
    /// Longest sequence in tokens, prompt, image and answer together.
    pub max_tokens: Option<usize>,
}

/// Where a model was read from.
#[derive(Clone, Debug)]
pub(crate) struct ModelFiles {
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
    /// The weights without adapters are still those of the folder.
    pub(crate) unchanged: bool,
}

impl ModelFiles {
    /// The model in memory holds weights quantised.
    pub(crate) fn is_quantised(&self) -> bool {
        !self.settings.quantize.is_none()
    }
}

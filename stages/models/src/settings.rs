//! What a model runs under that its checkpoint does not say, and where it was read from.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::DType;
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

/// What a model runs under that its checkpoint does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Number type.
    pub precision: Precision,
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

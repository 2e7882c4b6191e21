//! How an image file is encoded, and whether it is turned as it says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an image's bytes are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// `height * width * 3` bytes, row-major.
    Rgb8,
    /// A PNG file.
    Png,
    /// A JPEG file.
    Jpeg,
    /// A WebP file.
    Webp,
}

impl Encoding {
    /// The encoding as `samples.jsonl` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rgb8 => "rgb8",
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
        }
    }
}

/// Whether an image is turned as its EXIF orientation says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exif {
    /// It is, as in Transformers' own `load_image`.
    #[default]
    Apply,
    /// It is not, as in ms-swift and qwen_vl_utils.
    Ignore,
}

impl Exif {
    /// Whether it is what is done without being asked.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

//! The sizes of a micro VLM.

use dcsft_vlm::error::VlmError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sizes and vocabulary of a micro VLM; the defaults make the embedded micro world's model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MicroConfig {
    /// Side in pixels of the square input image; other images are resized to it.
    #[schemars(range(min = 1))]
    pub image_size: usize,
    /// Side in pixels of a patch; divides `image_size`.
    #[schemars(range(min = 1))]
    pub patch_size: usize,
    /// The image encoder (ViT).
    pub vision: BlocksConfig,
    /// The text decoder.
    pub decoder: BlocksConfig,
    /// Text tokens that fit after the image: prompt and answer, without the answer's last token.
    #[schemars(range(min = 1))]
    pub max_text_tokens: usize,
    /// Words and phrases that are one token each; the tokenizer takes the longest that fits.
    pub words: Vec<String>,
    /// Characters that are one token each.
    pub characters: String,
}

/// Sizes of a stack of transformer blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlocksConfig {
    /// Width of the residual stream.
    #[schemars(range(min = 1))]
    pub width: usize,
    /// Blocks.
    #[schemars(range(min = 1))]
    pub layers: usize,
    /// Attention heads; divides `width`.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// Width of the MLP's hidden layer as a multiple of `width`.
    #[schemars(range(min = 1))]
    pub mlp_ratio: usize,
}

impl Default for BlocksConfig {
    fn default() -> Self {
        Self {
            width: 48,
            layers: 2,
            heads: 4,
            mlp_ratio: 2,
        }
    }
}

impl Default for MicroConfig {
    fn default() -> Self {
        Self {
            image_size: 16,
            patch_size: 4,
            vision: BlocksConfig::default(),
            decoder: BlocksConfig::default(),
            max_text_tokens: 11,
            words: ["caption", "scene?", "object?", "on"]
                .map(String::from)
                .to_vec(),
            characters: ('a'..='z').collect(),
        }
    }
}

impl MicroConfig {
    /// Patches, and so image tokens, of one image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Values in one patch: three channels of each pixel.
    pub fn patch_values(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }

    /// Image and text tokens that the decoder has positions for.
    pub fn positions(&self) -> usize {
        self.patches() + self.max_text_tokens
    }

    /// Checks limits of an image's area in pixels.
    ///
    /// # Errors
    /// [`VlmError::Config`] where one is given: every image becomes as large.
    pub fn check_pixels(&self, min: Option<usize>, max: Option<usize>) -> Result<(), VlmError> {
        let given = [("min_pixels", min), ("max_pixels", max)];
        match given.into_iter().find(|(_, limit)| limit.is_some()) {
            None => Ok(()),
            Some((name, _)) => Err(VlmError::Config(format!(
                "`{name}` has no effect on a micro model: every image becomes {side} x {side} pixels; take it out",
                side = self.image_size
            ))),
        }
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`VlmError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), VlmError> {
        let error = |text: String| Err(VlmError::Config(text));
        for (name, value) in [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("max_text_tokens", self.max_text_tokens),
        ] {
            if value == 0 {
                return error(format!("{name} must be at least 1"));
            }
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return error(format!(
                "patch_size must divide image_size: {} pixels cannot be cut into patches of {}",
                self.image_size, self.patch_size
            ));
        }
        for (name, blocks) in [("vision", &self.vision), ("decoder", &self.decoder)] {
            for (field, value) in [
                ("width", blocks.width),
                ("layers", blocks.layers),
                ("heads", blocks.heads),
                ("mlp_ratio", blocks.mlp_ratio),
            ] {
                if value == 0 {
                    return error(format!("{name}.{field} must be at least 1"));
                }
            }
            if !blocks.width.is_multiple_of(blocks.heads) {
                return error(format!(
                    "{name}.heads must divide {name}.width: a width of {} cannot be cut into {} heads",
                    blocks.width, blocks.heads
                ));
            }
        }
        Ok(())
    }
}

//! From samples to what models take.

use std::sync::Arc;

use dcsft_vlm::model::{Picture, Prompt};

use super::sample::Sample;

/// Stands in a prompt where an image does.
pub const IMAGE_PLACEHOLDER: &str = "<image>";

/// The sample's question about `image`, its own.
pub fn to_prompt(sample: &Sample, image: Picture) -> Prompt {
    Prompt {
        id: Arc::from(sample.id.as_str()),
        image,
        text: Arc::from(sample.prompt.as_str()),
    }
}

//! What of a checkpoint's processor and files counts for memory.

use std::path::Path;

use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{Message, Part, Role};
use serde::{Deserialize, Serialize};

use crate::checkpoint::weight_files;
use crate::processor::{Encode, Processor};

/// A text to measure the tokenizer on: how many bytes a token has.
const TEXT: &str =
    "What is shown in the image? Answer with one of the following options and nothing else.";

/// What of the processor and the files counts for memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Texts {
    /// Tokens of a conversation with an image and no question, the image's own aside.
    pub template: f64,
    /// Tokens of a byte of text.
    pub per_byte: f64,
    /// Least and largest area of an image, in pixels.
    pub pixels: [f64; 2],
    /// Bytes of the files with the weights.
    pub files: f64,
}

impl Texts {
    /// Measures the processor of the checkpoint in the folder `dir`.
    ///
    /// # Errors
    /// [`VlmError`] for a conversation that it cannot encode.
    pub fn of(dir: &Path, processor: &Processor) -> Result<Self, VlmError> {
        const SIDE: u32 = 64;
        let count = |text: &str| {
            let content = vec![Part::Image, Part::Text(text.to_owned())];
            let message = Message {
                role: Role::User,
                content,
            };
            processor.count_tokens(&[message], &[(SIDE, SIDE)], &Encode::PROMPT)
        };
        let images = processor.images();
        let image = images.expansion(images.grid(SIDE as usize, SIDE as usize)?);
        let (short, long) = (count(".")?, count(&format!(".{TEXT}"))?);
        let length = |name: &String| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len());
        // Weights that are drawn have none.
        let files = weight_files(dir).unwrap_or_default();
        Ok(Self {
            template: (short - image.len()) as f64,
            per_byte: (long - short) as f64 / TEXT.len() as f64,
            pixels: images.limits().map(|pixels| pixels as f64),
            files: files.iter().map(length).sum::<u64>() as f64,
        })
    }
}

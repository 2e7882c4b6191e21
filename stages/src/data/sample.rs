//! Samples and their content IDs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::boxes::Boxes;
use super::encoding::{Encoding, Exif};

/// Whether a set follows the training distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// In distribution.
    #[default]
    Id,
    /// Out of distribution.
    Ood,
}

impl Split {
    /// `id` or `ood`, as in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Ood => "ood",
        }
    }
}

/// Where one image of a sample lies in `images.pack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Its first byte.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How they are encoded.
    pub format: Encoding,
    /// Pixels per row after decoding (EXIF orientation applied).
    pub width: u32,
    /// Rows after decoding.
    pub height: u32,
    /// Whether the file's EXIF orientation is applied.
    #[serde(default, skip_serializing_if = "Exif::is_default")]
    pub exif: Exif,
}

/// Who said an earlier turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

/// An earlier turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Who said it.
    pub role: Speaker,
    /// What was said; `<image>` stands where an image does.
    pub content: String,
}

/// One question about images, with its right answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Content ID, 32 hex digits: rows of different artifacts join by it, never by position.
    pub id: String,
    /// What the system is told before the question; without it the model's chat template decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What was said before the question: turns of the user and the assistant in turn, the user's first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Said>,
    /// The question; `<image>` stands where an image does.
    pub prompt: String,
    /// The right answer.
    pub answer: String,
    /// What the boxes in question and answer are, where the list says it. Both hold them as the list does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<Boxes>,
    /// The images, in the order of their placeholders in history and question.
    pub images: Vec<ImageEntry>,
    /// Further facts: class, scene, fields of the source record. Not part of the ID.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, Value>,
}

/// `dataset.json`: what a dataset artifact holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Version of the folder's layout: [`DatasetInfo::FORMAT`].
    pub format: u32,
    /// The set's name, as results show it.
    pub set: String,
    /// In or out of distribution.
    pub split: Split,
    /// Lines in `samples.jsonl`.
    pub count: usize,
    /// Facts about where the set came from. A subset leaves them out, so that its bytes depend on its rows
    /// alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, Value>,
}

impl DatasetInfo {
    /// The layout that this version writes and reads.
    pub const FORMAT: u32 = 1;
}

/// What besides question, answer and image makes a sample what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// What the system is told.
    pub system: Option<String>,
    /// What was said before the question.
    pub history: Vec<Said>,
    /// What the boxes are.
    pub boxes: Option<Boxes>,
    /// Whether the images' EXIF orientation is applied.
    pub exif: Exif,
}

/// Builds a sample's content ID: BLAKE3 over prompt, answer and images, each framed by its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentId([u8; 32]);

impl ContentId {
    /// The content of a sample, before it is known how often it occurs.
    pub fn of<'a>(
        prompt: &str,
        answer: &str,
        images: impl ExactSizeIterator<Item = ImageContent<'a>>,
    ) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("dcsft 2026 sample content v1");
        for text in [prompt, answer] {
            hasher
                .update(&(text.len() as u64).to_le_bytes())
                .update(text.as_bytes());
        }
        hasher.update(&(images.len() as u64).to_le_bytes());
        for image in images {
            hasher.update(&[image.format as u8]);
            hasher
                .update(&image.width.to_le_bytes())
                .update(&image.height.to_le_bytes());
            hasher.update(blake3::hash(image.bytes).as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The content within a context. Without any it stays what it is.
    #[must_use]
    pub fn within(self, context: &Context) -> Self {
        let Context {
            system,
            history,
            boxes,
            exif,
        } = context;
        if *context == Context::default() {
            return self;
        }
        let mut hasher = blake3::Hasher::new_derive_key("dcsft 2026 sample context v1");
        hasher.update(&self.0);
        let system = system.as_deref();
        hasher.update(&[u8::from(system.is_some())]);
        let system = system.unwrap_or_default();
        hasher
            .update(&(system.len() as u64).to_le_bytes())
            .update(system.as_bytes());
        // The tags of the enums, 0 for none.
        let boxes = boxes.map_or([0, 0], |boxes| {
            [boxes.frame as u8 + 1, boxes.sides as u8 + 1]
        });
        hasher.update(&boxes).update(&[*exif as u8]);
        // What comes before has one length for each length of `system`, so that nothing else ends in turns.
        for Said { role, content } in history {
            hasher
                .update(&[*role as u8])
                .update(&(content.len() as u64).to_le_bytes())
                .update(content.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The ID of the `occurrence`-th sample (from 0) with this content in its set: 32 hex digits.
    pub fn occurrence(&self, occurrence: u64) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("dcsft 2026 sample id v1");
        hasher.update(&self.0).update(&occurrence.to_le_bytes());
        let mut hex = hasher.finalize().to_hex().to_string();
        hex.truncate(32);
        hex
    }
}

/// What of an image enters a sample's ID.
#[derive(Clone, Copy)]
pub struct ImageContent<'a> {
    /// The bytes as stored.
    pub bytes: &'a [u8],
    /// Their encoding.
    pub format: Encoding,
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

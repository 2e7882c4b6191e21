//! What stages hand to one another: samples with images, and sampled answers.
//!
//! A dataset artifact is a folder of three files:
//!
//! | file | content |
//! |---|---|
//! | `dataset.json` | a [`DatasetInfo`]: set name, split, number of samples |
//! | `samples.jsonl` | one [`Sample`] per line |
//! | `images.pack` | the bytes of all images, back to back |
//!
//! A subset keeps the very same `images.pack` (a hard link) and has other lines in `samples.jsonl`, so that
//! cutting a set into bins costs no disk. Two subsets with the same rows have the same bytes, whatever they
//! are called.

mod boxes;
mod budget;
mod decode;
mod encoding;
mod error;
mod files;
mod jpeg;
mod pack;
mod prompt;
mod rollouts;
mod sample;
mod store;
mod stored;
mod writer;

pub use boxes::{Boxes, Frame, Sides, View, is_box};
pub use decode::{decode, sniff};
pub use encoding::{Encoding, Exif};
pub use error::DataError;
pub(crate) use error::{read_json, read_lines, write_json};
pub use prompt::{IMAGE_PLACEHOLDER, Shown};
pub use rollouts::{Generation, RolloutInfo, RolloutRecord, RolloutWriter, Rollouts};
pub use sample::{
    ContentId, Context, DatasetInfo, ImageContent, ImageEntry, Said, Sample, Speaker, Split,
};
pub use store::Dataset;
pub(crate) use store::read_samples;
pub use stored::StoredImage;
pub use writer::{DatasetWriter, Draft, DraftImage};

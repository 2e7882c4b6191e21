//! Writing a dataset artifact.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::encoding::Encoding;
use super::error::{DataError, write_json};
use super::files::{IMAGES, INFO, SAMPLES, create, write_line};
use super::sample::{ContentId, Context, DatasetInfo, ImageContent, ImageEntry, Sample, Split};

/// An image on its way into a dataset.
#[derive(Clone, Debug)]
pub struct DraftImage {
    /// The bytes to store.
    pub bytes: Arc<[u8]>,
    /// How they are encoded.
    pub format: Encoding,
    /// Pixels per row after decoding.
    pub width: u32,
    /// Rows after decoding.
    pub height: u32,
}

/// A sample on its way into a dataset. Making one does the hashing, so it can be done on any thread.
#[derive(Clone, Debug)]
pub struct Draft {
    prompt: String,
    answer: String,
    images: Vec<DraftImage>,
    meta: BTreeMap<String, Value>,
    context: Context,
    content: ContentId,
}

impl Draft {
    /// A sample without its ID, which depends on how often the same content came before it.
    pub fn new(
        prompt: String,
        answer: String,
        images: Vec<DraftImage>,
        meta: BTreeMap<String, Value>,
    ) -> Self {
        let parts = images.iter().map(|image| ImageContent {
            bytes: &image.bytes,
            format: image.format,
            width: image.width,
            height: image.height,
        });
        let content = ContentId::of(&prompt, &answer, parts);
        Self {
            prompt,
            answer,
            images,
            meta,
            context: Context::default(),
            content,
        }
    }

    /// The same within a context. A draft is put into one at most.
    #[must_use]
    pub fn within(self, context: Context) -> Self {
        Self {
            content: self.content.within(&context),
            context,
            ..self
        }
    }
}

/// Writes the three files of a dataset artifact, sample after sample.
pub struct DatasetWriter {
    dir: PathBuf,
    set: String,
    split: Split,
    count: usize,
    samples: BufWriter<File>,
    pack: BufWriter<File>,
    offset: u64,
    seen: HashMap<ContentId, u64>,
}

impl DatasetWriter {
    /// Starts a dataset in the existing folder `dir`.
    ///
    /// # Errors
    /// If its files cannot be created.
    pub fn create(dir: &Path, set: &str, split: Split) -> Result<Self, DataError> {
        Ok(Self {
            dir: dir.to_owned(),
            set: set.to_owned(),
            split,
            count: 0,
            samples: create(&dir.join(SAMPLES))?,
            pack: create(&dir.join(IMAGES))?,
            offset: 0,
            seen: HashMap::new(),
        })
    }

    /// Appends a sample and returns its ID.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn push(&mut self, draft: Draft) -> Result<String, DataError> {
        let occurrence = self.seen.entry(draft.content).or_insert(0);
        let id = draft.content.occurrence(*occurrence);
        *occurrence += 1;
        let mut images = Vec::with_capacity(draft.images.len());
        for image in &draft.images {
            self.pack
                .write_all(&image.bytes)
                .map_err(DataError::io(&self.dir.join(IMAGES)))?;
            let bytes = image.bytes.len() as u64;
            let DraftImage {
                format,
                width,
                height,
                ..
            } = *image;
            images.push(ImageEntry {
                offset: self.offset,
                bytes,
                format,
                width,
                height,
                exif: draft.context.exif,
            });
            self.offset += bytes;
        }
        let sample = Sample {
            id,
            system: draft.context.system,
            history: draft.context.history,
            prompt: draft.prompt,
            answer: draft.answer,
            boxes: draft.context.boxes,
            images,
            meta: draft.meta,
        };
        write_line(&mut self.samples, &sample, &self.dir.join(SAMPLES))?;
        self.count += 1;
        Ok(sample.id)
    }

    /// Writes `dataset.json` and closes the files.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn finish(mut self, notes: BTreeMap<String, Value>) -> Result<DatasetInfo, DataError> {
        self.samples
            .flush()
            .map_err(DataError::io(&self.dir.join(SAMPLES)))?;
        self.pack
            .flush()
            .map_err(DataError::io(&self.dir.join(IMAGES)))?;
        let info = DatasetInfo {
            format: DatasetInfo::FORMAT,
            set: self.set,
            split: self.split,
            count: self.count,
            notes,
        };
        write_json(&self.dir.join(INFO), &info)?;
        Ok(info)
    }
}

//! Reading a dataset artifact and cutting subsets out of it.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcsft_engine::stage::{StageContext, StageError};
use dcsft_vlm::model::RgbImage;

use super::error::{DataError, read_json, read_lines, write_json};
use super::files::{IMAGES, INFO, SAMPLES, create, write_line};
use super::pack::Pack;
use super::sample::{DatasetInfo, ImageEntry, Sample};
use super::stored::StoredImage;

/// A dataset artifact: all samples in memory, images read on demand.
#[derive(Debug)]
pub struct Dataset {
    dir: PathBuf,
    info: DatasetInfo,
    samples: Vec<Sample>,
    by_id: HashMap<String, usize>,
    pack: Arc<Pack>,
}

/// The samples of the artifact in `dir`, without their images.
///
/// # Errors
/// If they are missing or malformed.
pub(crate) fn read_samples(dir: &Path) -> Result<Vec<Sample>, DataError> {
    read_lines(&dir.join(SAMPLES))
}

impl Dataset {
    /// Opens the artifact in `dir`.
    ///
    /// # Errors
    /// If a file is missing, malformed, or the three files do not belong together.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let info = Self::info_of(dir)?;
        if info.format != DatasetInfo::FORMAT {
            let message = format!(
                "format {} is not known here; this version reads {}",
                info.format,
                DatasetInfo::FORMAT
            );
            return Err(DataError::format(&dir.join(INFO), message));
        }
        let path = dir.join(SAMPLES);
        let samples = read_samples(dir)?;
        if samples.len() != info.count {
            let message = format!("{} lines, but {INFO} says {}", samples.len(), info.count);
            return Err(DataError::format(&path, message));
        }
        let mut by_id = HashMap::with_capacity(samples.len());
        for (index, sample) in samples.iter().enumerate() {
            if by_id.insert(sample.id.clone(), index).is_some() {
                return Err(DataError::format(
                    &path,
                    format!("line {}: ID {} a second time", index + 1, sample.id),
                ));
            }
        }
        let pack = Pack::open(&dir.join(IMAGES))?;
        Ok(Self {
            dir: dir.to_owned(),
            info,
            samples,
            by_id,
            pack: Arc::new(pack),
        })
    }

    /// What the artifact in `dir` says of itself; its samples are not read.
    ///
    /// # Errors
    /// If the file is missing or malformed.
    pub fn info_of(dir: &Path) -> Result<DatasetInfo, DataError> {
        read_json(&dir.join(INFO))
    }

    /// Set name, split, count.
    pub fn info(&self) -> &DatasetInfo {
        &self.info
    }

    /// The samples, in the set's order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none: a bin can be empty.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Index of the sample with content ID `id`.
    pub fn position(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The sample with content ID `id`.
    pub fn get(&self, id: &str) -> Option<&Sample> {
        self.position(id).map(|index| &self.samples[index])
    }

    /// The stored bytes of an image, still encoded.
    ///
    /// # Errors
    /// If the pack is too short or cannot be read.
    pub fn image_bytes(&self, entry: &ImageEntry) -> Result<Vec<u8>, DataError> {
        self.pack.image(entry)
    }

    /// The sample's images, not decoded yet, in the order of their placeholders.
    pub fn stored_images(&self, sample: &Sample) -> impl Iterator<Item = StoredImage> {
        let images = sample.images.iter();
        images.map(|entry| StoredImage::new(self.pack.clone(), entry.clone()))
    }

    /// The sample's first image, decoded.
    ///
    /// # Errors
    /// If it has none; as [`StoredImage::decode`].
    pub fn image(&self, sample: &Sample) -> Result<RgbImage, DataError> {
        let first = self.stored_images(sample).next();
        let none = || DataError::Sample {
            id: sample.id.clone(),
            message: "has no image".to_owned(),
        };
        first.ok_or_else(none)?.decode()
    }

    /// The sample's images, decoded.
    ///
    /// # Errors
    /// As [`StoredImage::decode`].
    pub fn images(&self, sample: &Sample) -> Result<Vec<RgbImage>, DataError> {
        let images = self.stored_images(sample);
        images.map(|image| image.decode()).collect()
    }

    /// Writes the artifact of the samples at `rows` (in that order) into the folder `dir`. The images are
    /// shared with this set; the name of the subset appears nowhere, so the same rows give the same bytes.
    ///
    /// # Errors
    /// If a file cannot be written or linked.
    pub fn write_subset(
        &self,
        ctx: &StageContext,
        dir: &Path,
        rows: &[usize],
    ) -> Result<(), StageError> {
        let path = dir.join(SAMPLES);
        let mut out = create(&path)?;
        for &row in rows {
            write_line(&mut out, &self.samples[row], &path)?;
        }
        out.flush().map_err(StageError::io(&path))?;
        let notes = std::collections::BTreeMap::new();
        write_json(
            &dir.join(INFO),
            &DatasetInfo {
                count: rows.len(),
                notes,
                ..self.info.clone()
            },
        )?;
        ctx.link(&self.dir.join(IMAGES), &dir.join(IMAGES))
    }
}

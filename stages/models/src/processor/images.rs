//! What differs between families in the preparation of images.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use dcsft_tensor::ops::{Column, Levels, Pixels};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::RgbImage;
use serde_json::{Map, Value};

use super::files::Files;
use crate::fields::{Known, short};

/// What an image becomes: for the Qwen families frames, rows and columns of patches; for SmolVLM tiles, and rows and
/// columns of tiles.
pub type Grid = [usize; 3];

/// Positions of a sequence's tokens in time, height and width, and the one after the last.
pub type Positions = ([Vec<u32>; 3], u32);

/// An image, cut up.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// Patch after patch in the order in which the family's tower takes them, and of each patch channel, y, x. Frames
    /// of an image are equal, and are here once.
    pub bytes: Vec<u8>,
    /// What each byte of each channel becomes.
    pub levels: Arc<Levels>,
    /// What the image became.
    pub grid: Grid,
}

/// Channels of a picture: red, green, blue.
pub(crate) const CHANNELS: usize = 3;

impl Patches {
    /// What a tower takes of images: their patches have a side of `patch` pixels and `frames` equal frames, and
    /// values in the order of channel, frame, y, x.
    pub fn pixels(images: &[&Self], patch: usize, frames: usize) -> Pixels {
        let bytes = images.iter().flat_map(|image| image.bytes.iter().copied());
        Self::with_bytes(bytes.collect(), images, patch, frames)
    }

    /// The same of patches in an order of the tower's own.
    pub(crate) fn with_bytes(
        bytes: Vec<u8>,
        images: &[&Self],
        patch: usize,
        frames: usize,
    ) -> Pixels {
        let area = patch.pow(2) as u32;
        let of_channel = |channel: u8| {
            let first = u32::from(channel) * area;
            let frame = (first..first + area).map(move |byte| Column { byte, channel });
            std::iter::repeat_n(frame, frames).flatten()
        };
        // One processor has cut them all.
        let levels = images.first().map(|image| image.levels.clone());
        Pixels {
            bytes,
            width: CHANNELS * patch.pow(2),
            columns: (0..CHANNELS as u8).flat_map(of_channel).collect(),
            levels: levels.unwrap_or_else(|| Arc::new([[0.0; 256]; CHANNELS])),
        }
    }
}

/// How a family prepares images.
pub trait Images: Send + Sync + Debug {
    /// What an image of this size becomes.
    ///
    /// # Errors
    /// [`VlmError::Config`] for a size that the family does not take.
    fn grid(&self, height: usize, width: usize) -> Result<Grid, VlmError>;

    /// The tokens that stand in a text for an image.
    fn expansion(&self, grid: Grid) -> Vec<u32>;

    /// Positions of a sequence with images of these grids. Without axes of their own they are counted.
    ///
    /// # Errors
    /// [`VlmError::Config`] where the tokens do not fit the images.
    fn positions(&self, ids: &[u32], _grids: &[Grid]) -> Result<Positions, VlmError> {
        let all: Vec<u32> = (0..ids.len() as u32).collect();
        Ok(([all.clone(), all.clone(), all], ids.len() as u32))
    }

    /// The image, resized and cut up.
    ///
    /// # Errors
    /// As [`Images::grid`]; [`VlmError::Config`] too where the image's sizes and pixels do not fit together.
    fn patches(&self, image: &RgbImage) -> Result<Patches, VlmError>;

    /// An image in the place of which this one can be given, with no more pixels.
    ///
    /// # Errors
    /// As [`Images::patches`].
    fn shrunk(&self, image: &RgbImage) -> Result<RgbImage, VlmError>;

    /// The size (width, height) in which the model sees an image of this size.
    ///
    /// # Errors
    /// As [`Images::grid`].
    fn seen(&self, width: u32, height: u32) -> Result<(u32, u32), VlmError>;

    /// The least and the largest area of an image, in pixels.
    fn limits(&self) -> [usize; 2];

    /// The same with other limits of an image's area in pixels, where they are given.
    ///
    /// # Errors
    /// [`VlmError::Config`] where they cannot be met, or have no effect.
    fn with_pixels(
        &self,
        min: Option<usize>,
        max: Option<usize>,
    ) -> Result<Arc<dyn Images>, VlmError>;
}

/// How a checkpoint prepares images, to be asked without a model. Equal are those with the same settings.
#[derive(Clone, Debug)]
pub struct ImageRules(Arc<dyn Images>);

impl ImageRules {
    /// Those of a processor's `images`.
    pub(super) fn new(images: &Arc<dyn Images>) -> Self {
        Self(Arc::clone(images))
    }

    /// Whether images can have such limits of their area in pixels, where they are given.
    ///
    /// # Errors
    /// As [`Images::with_pixels`].
    pub fn check_pixels(&self, min: Option<usize>, max: Option<usize>) -> Result<(), VlmError> {
        if min.is_some() || max.is_some() {
            self.0.with_pixels(min, max)?;
        }
        Ok(())
    }
}

impl PartialEq for ImageRules {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || format!("{:?}", self.0) == format!("{:?}", other.0)
    }
}

/// The file with the image settings, and the one for the whole processor.
const IMAGES: &str = "preprocessor_config.json";
const PROCESSOR: &str = "processor_config.json";

/// Reads the image settings with `read`. As in Transformers 5, what `processor_config.json` says of images goes before
/// `preprocessor_config.json`; `known` says which of its other fields there may be.
///
/// # Errors
/// [`VlmError::Config`] with the file and what is wrong with it.
pub(crate) fn find<T>(
    files: &Files,
    known: &Known,
    read: impl Fn(&Map<String, Value>) -> Result<T, String>,
) -> Result<T, VlmError> {
    if let Some(fields) = fields(files, PROCESSOR)? {
        let path = files.path(PROCESSOR);
        known
            .check("", &fields)
            .map_err(|problem| fail(&path, problem))?;
        match fields.get("image_processor") {
            None | Some(Value::Null) => {}
            Some(Value::Object(fields)) => {
                return read(fields)
                    .map_err(|problem| fail(&path, format!("image_processor: {problem}")));
            }
            Some(other) => {
                let problem = format!("`image_processor` must be an object, not {}", short(other));
                return Err(fail(&path, problem));
            }
        }
    }
    match fields(files, IMAGES)? {
        Some(fields) => read(&fields).map_err(|problem| fail(&files.path(IMAGES), problem)),
        None => Err(VlmError::Config(format!(
            "{}: no {IMAGES}, and no {PROCESSOR} with `image_processor`",
            files.dir().display()
        ))),
    }
}

fn fields(files: &Files, name: &str) -> Result<Option<Map<String, Value>>, VlmError> {
    let object = |text| object(&files.path(name), text);
    files.text(name)?.map(object).transpose()
}

pub(super) fn object(path: &Path, text: &str) -> Result<Map<String, Value>, VlmError> {
    serde_json::from_str(text).map_err(|error| fail(path, format!("no JSON object: {error}")))
}

pub(super) fn fail(path: &Path, problem: impl std::fmt::Display) -> VlmError {
    VlmError::Config(format!("{}: {problem}", path.display()))
}

/// What each byte of each channel becomes by `(byte * rescale - mean) / std`, in the arithmetic of Transformers' slow
/// image processors.
pub(crate) fn normalised(rescale: f64, mean: [f64; 3], std: [f64; 3]) -> Levels {
    std::array::from_fn(|channel| {
        let (mean, std) = (mean[channel] as f32, std[channel] as f32);
        std::array::from_fn(|byte| ((byte as f64 * rescale) as f32 - mean) / std)
    })
}

/// Row and column of each patch: blocks of `merge x merge` patches in raster order, raster order within a block.
pub(crate) fn block_order(
    rows: usize,
    columns: usize,
    merge: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let blocks = (0..rows / merge).flat_map(move |y| (0..columns / merge).map(move |x| (y, x)));
    blocks.flat_map(move |(y, x)| {
        (0..merge).flat_map(move |dy| (0..merge).map(move |dx| (y * merge + dy, x * merge + dx)))
    })
}

/// Adds the patches at these rows and columns of patches to `bytes`, of each channel, y, x.
pub(crate) fn cut(
    image: &RgbImage,
    patch: usize,
    places: impl Iterator<Item = (usize, usize)>,
    bytes: &mut Vec<u8>,
) {
    let line = image.width as usize * CHANNELS;
    for (row, column) in places {
        for channel in 0..CHANNELS {
            for y in row * patch..(row + 1) * patch {
                let pixels = &image.pixels[y * line + column * patch * CHANNELS..];
                let pixels = pixels.chunks_exact(CHANNELS).take(patch);
                bytes.extend(pixels.map(|pixel| pixel[channel]));
            }
        }
    }
}

//! Images that stay in their pack until someone looks at them.

use std::sync::Arc;

use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{ImageSource, RgbImage};

use super::decode::decode;
use super::error::DataError;
use super::pack::Pack;
use super::sample::ImageEntry;

/// An image of a dataset artifact; it is read and decoded each time it is asked for.
#[derive(Clone, Debug)]
pub struct StoredImage {
    pack: Arc<Pack>,
    entry: ImageEntry,
}

impl StoredImage {
    pub(super) fn new(pack: Arc<Pack>, entry: ImageEntry) -> Self {
        Self { pack, entry }
    }

    /// The image, decoded.
    ///
    /// # Errors
    /// If it cannot be read or decoded, or has another size than the set says.
    pub fn decode(&self) -> Result<RgbImage, DataError> {
        let (width, height) = self.size();
        let image = decode(
            self.pack.image(&self.entry)?,
            self.entry.format,
            Some((width, height)),
            self.entry.exif,
        )?;
        if (image.width, image.height) != (width, height) {
            return Err(DataError::Image(format!(
                "it is {}x{}, not {width}x{height} as recorded",
                image.width, image.height
            )));
        }
        Ok(image)
    }
}

impl ImageSource for StoredImage {
    fn size(&self) -> (u32, u32) {
        (self.entry.width, self.entry.height)
    }

    fn load(&self) -> Result<RgbImage, VlmError> {
        self.decode()
            .map_err(|error| VlmError::Image(error.to_string()))
    }
}

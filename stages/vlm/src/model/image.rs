//! Images as a prompt holds them.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use crate::error::VlmError;

/// An image as the user gave it: RGB, row-major, 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height * width * 3` bytes.
    pub pixels: Arc<[u8]>,
}

impl RgbImage {
    /// Checks that there are as many pixels as the sizes say, and at least one.
    ///
    /// # Errors
    /// [`VlmError::Config`] with both numbers.
    pub fn validate(&self) -> Result<(), VlmError> {
        let needed = self.width as usize * self.height as usize * 3;
        if needed == 0 || self.pixels.len() != needed {
            return Err(VlmError::Config(format!(
                "an image of {} x {} pixels has {needed} bytes and at least one pixel, not {} bytes",
                self.width,
                self.height,
                self.pixels.len()
            )));
        }
        Ok(())
    }
}

/// An image that lies somewhere else and is decoded where it is needed.
pub trait ImageSource: Send + Sync + Debug {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);
    /// Reads and decodes it.
    ///
    /// # Errors
    /// [`VlmError::Image`] says why it cannot be had.
    fn load(&self) -> Result<RgbImage, VlmError>;
}

/// An image of a conversation.
#[derive(Clone, Debug)]
pub enum Picture {
    /// Decoded, in memory.
    Decoded(RgbImage),
    /// Decoded anew each time it is looked at.
    Stored(Arc<dyn ImageSource>),
}

impl Picture {
    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        match self {
            Self::Decoded(image) => (image.width, image.height),
            Self::Stored(source) => source.size(),
        }
    }

    /// The pixels.
    ///
    /// # Errors
    /// [`VlmError::Image`] where a stored image cannot be had.
    pub fn load(&self) -> Result<Cow<'_, RgbImage>, VlmError> {
        match self {
            Self::Decoded(image) => Ok(Cow::Borrowed(image)),
            Self::Stored(source) => source.load().map(Cow::Owned),
        }
    }

    /// Checks what can be checked without decoding.
    ///
    /// # Errors
    /// As [`RgbImage::validate`].
    pub fn validate(&self) -> Result<(), VlmError> {
        match self {
            Self::Decoded(image) => image.validate(),
            Self::Stored(_) => Ok(()),
        }
    }

    /// Whether two pictures are one and the same; two stored ones are not decoded to find out.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Decoded(a), Self::Decoded(b)) => Arc::ptr_eq(&a.pixels, &b.pixels) || a == b,
            (Self::Stored(a), Self::Stored(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl From<RgbImage> for Picture {
    fn from(image: RgbImage) -> Self {
        Self::Decoded(image)
    }
}

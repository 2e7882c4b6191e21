//! From an image file's bytes to RGB: EXIF orientation applied where that is asked for, transparency composited on
//! white (as qwen_vl_utils does), grey, palette and CMYK converted as Pillow does.

use std::io::Cursor;

use dcsft_vlm::model::RgbImage;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::budget::Share;
use super::encoding::{Encoding, Exif};
use super::error::DataError;
use super::jpeg;

/// Pixels of the largest image: where Pillow refuses to decode (`DecompressionBombError`, twice its
/// `MAX_IMAGE_PIXELS` of 2^30 / 12). A small file can claim to hold more than there is memory.
const MOST_PIXELS: u64 = 2 * ((1 << 30) / 12);
/// Bytes a pixel besides those of the file's own colours: as four channels, and as three.
const COPIES: u64 = 7;
/// Bytes that a file's metadata may unpack to.
const METADATA: u64 = 64 << 20;

/// The encoding of an image file, from its first bytes; none where it is not one that can be decoded.
pub fn sniff(bytes: &[u8]) -> Option<Encoding> {
    match image::guess_format(bytes).ok()? {
        image::ImageFormat::Png => Some(Encoding::Png),
        image::ImageFormat::Jpeg => Some(Encoding::Jpeg),
        image::ImageFormat::WebP => Some(Encoding::Webp),
        _ => None,
    }
}

/// Decodes an image. `size` (width, height) is needed for [`Encoding::Rgb8`], whose bytes do not say it.
///
/// # Errors
/// [`DataError::Image`] says what is wrong with the bytes, [`DataError::TooLarge`] that there are more pixels than are
/// decoded.
pub fn decode(
    bytes: Vec<u8>,
    encoding: Encoding,
    size: Option<(u32, u32)>,
    exif: Exif,
) -> Result<RgbImage, DataError> {
    let format = match encoding {
        Encoding::Rgb8 => return raw(bytes, size),
        Encoding::Png => image::ImageFormat::Png,
        Encoding::Jpeg => image::ImageFormat::Jpeg,
        Encoding::Webp => image::ImageFormat::WebP,
    };
    if encoding == Encoding::Jpeg && !jpeg::is_whole(&bytes) {
        return Err(DataError::Image(format!(
            "the JPEG file breaks off at its end, after {} bytes",
            bytes.len()
        )));
    }
    let fail = |error: image::ImageError| DataError::Image(error.to_string());
    let mut reader = ImageReader::with_format(Cursor::new(bytes.as_slice()), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(METADATA);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(fail)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MOST_PIXELS {
        return Err(DataError::TooLarge {
            width,
            height,
            most: MOST_PIXELS,
        });
    }
    let _share = Share::take(decoder.total_bytes() + pixels * COPIES);
    let orientation = match exif {
        Exif::Apply => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        Exif::Ignore => Orientation::NoTransforms,
    };
    let colour = match encoding {
        Encoding::Jpeg => jpeg::colour(&bytes),
        _ => None,
    };
    let mut image = match colour {
        Some(image) => DynamicImage::ImageRgb8(image),
        None => DynamicImage::from_decoder(decoder).map_err(fail)?,
    };
    image.apply_orientation(orientation);
    Ok(if image.color().has_alpha() {
        on_white(&image.into_rgba8())
    } else {
        plain(image.into_rgb8())
    })
}

fn raw(bytes: Vec<u8>, size: Option<(u32, u32)>) -> Result<RgbImage, DataError> {
    let (width, height) =
        size.ok_or_else(|| DataError::Image("raw pixels without a size".into()))?;
    let expected = u64::from(width) * u64::from(height) * 3;
    if bytes.len() as u64 != expected {
        let message = format!(
            "{} bytes for {width}x{height} pixels, which take {expected}",
            bytes.len()
        );
        return Err(DataError::Image(message));
    }
    Ok(RgbImage {
        width,
        height,
        pixels: bytes.into(),
    })
}

fn plain(image: image::RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    RgbImage {
        width,
        height,
        pixels: image.into_raw().into(),
    }
}

/// Pillow's `alpha_composite` over opaque white, in its fixed-point arithmetic (7 fractional bits).
fn on_white(image: &image::RgbaImage) -> RgbImage {
    const BITS: u32 = 7;
    let mut pixels = Vec::with_capacity(image.as_raw().len() / 4 * 3);
    for pixel in image.pixels() {
        let [r, g, b, a] = pixel.0.map(u32::from);
        let front = a << BITS;
        let back = (255 << BITS) - front;
        for channel in [r, g, b] {
            let sum = channel * front + 255 * back + (0x80 << BITS);
            pixels.push(((((sum >> 8) + sum) >> 8) >> BITS) as u8);
        }
    }
    RgbImage {
        width: image.width(),
        height: image.height(),
        pixels: pixels.into(),
    }
}

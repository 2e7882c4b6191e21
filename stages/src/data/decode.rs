//! From an image file's bytes to RGB, as the Python reference loaders see it: EXIF orientation applied,
//! transparency composited on white, grey, palette and CMYK converted.

use std::io::Cursor;

use dcsft_vlm::model::RgbImage;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader};

use super::error::DataError;
use super::jpeg;
use super::sample::Encoding;

/// Bytes that a decoded image may take. A small file can claim to hold more than there is memory.
const LARGEST: u64 = 1 << 31;

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
/// [`DataError::Image`] says what is wrong with the bytes.
pub fn decode(
    bytes: Vec<u8>,
    encoding: Encoding,
    size: Option<(u32, u32)>,
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
    let mut decoder = ImageReader::with_format(Cursor::new(bytes.as_slice()), format)
        .into_decoder()
        .map_err(fail)?;
    if decoder.total_bytes() > LARGEST {
        let (width, height) = decoder.dimensions();
        return Err(DataError::Image(format!(
            "{width} x {height} pixels would take {} bytes of memory; at most {LARGEST} are read",
            decoder.total_bytes()
        )));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
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

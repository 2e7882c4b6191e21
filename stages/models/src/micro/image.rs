//! From the user's image to the numbers a model takes.

use std::sync::Arc;

use dcsft_tensor::ops::{Column, Pixels};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::RgbImage;
use image::imageops::{self, FilterType};
use image::{ImageBuffer, Rgb};

/// The image at `side` x `side` pixels, by an antialiased triangle filter (bilinear). One that has this size
/// already is given back as it is.
///
/// # Errors
/// [`VlmError::Config`] where sizes and pixels do not fit together.
pub(super) fn resize(image: &RgbImage, side: usize) -> Result<RgbImage, VlmError> {
    image.validate()?;
    if image.width as usize == side && image.height as usize == side {
        return Ok(image.clone());
    }
    let view = ImageBuffer::<Rgb<u8>, &[u8]>::from_raw(image.width, image.height, &image.pixels);
    let view = view.ok_or_else(|| VlmError::Config("an image larger than its pixels".into()))?;
    let side = side as u32;
    let resized = imageops::resize(&view, side, side, FilterType::Triangle);
    Ok(RgbImage {
        width: side,
        height: side,
        pixels: resized.into_raw().into(),
    })
}

/// The bytes of the image's patches: patches and pixels row by row, channels innermost. An image of another size goes
/// through [`resize`].
///
/// # Errors
/// As [`resize`].
pub(super) fn patches(image: &RgbImage, side: usize, patch: usize) -> Result<Vec<u8>, VlmError> {
    let resized = resize(image, side)?;
    let per_side = side / patch;
    let mut bytes = Vec::with_capacity(side * side * 3);
    for patch_row in 0..per_side {
        for patch_column in 0..per_side {
            for y in 0..patch {
                let start = ((patch_row * patch + y) * side + patch_column * patch) * 3;
                bytes.extend_from_slice(&resized.pixels[start..start + 3 * patch]);
            }
        }
    }
    Ok(bytes)
}

/// What goes into the encoder of such bytes: each scaled to `[-1, 1]`, `[patches, 3 * patch * patch]`.
pub(super) fn pixels(bytes: Vec<u8>, patch: usize) -> Pixels {
    let width = 3 * patch * patch;
    let column = |byte: usize| Column {
        byte: byte as u32,
        channel: (byte % 3) as u8,
    };
    Pixels {
        bytes,
        width,
        columns: (0..width).map(column).collect(),
        levels: Arc::new([std::array::from_fn(|byte| scaled(byte as u8)); 3]),
    }
}

fn scaled(byte: u8) -> f32 {
    f32::from(byte) * (2.0 / 255.0) - 1.0
}

#[cfg(test)]
mod tests {
    use super::{patches, pixels};
    use dcsft_vlm::model::RgbImage;

    fn image(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> RgbImage {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let pixels = pixels.flat_map(|(x, y)| pixel(x, y)).collect();
        RgbImage {
            width,
            height,
            pixels,
        }
    }

    #[test]
    fn patches_are_cut_row_by_row() {
        let image = image(4, 4, |x, y| [x as u8, y as u8, 255]);
        let bytes = patches(&image, 4, 2).unwrap();
        assert_eq!(bytes[12..24], [2, 0, 255, 3, 0, 255, 2, 1, 255, 3, 1, 255]);
        assert_eq!(bytes[24..27], [0, 2, 255]);
        let values = pixels(bytes.clone(), 2).values();
        let byte = |value: &f32| ((value + 1.0) * 127.5).round() as u8;
        assert!(bytes.iter().copied().eq(values.iter().map(byte)));
    }

    #[test]
    fn a_larger_image_is_averaged_down() {
        let checkers = image(
            64,
            32,
            |x, y| if (x + y) % 2 == 0 { [255; 3] } else { [0; 3] },
        );
        let values = pixels(patches(&checkers, 4, 4).unwrap(), 4).values();
        assert!(values.iter().all(|value| value.abs() < 0.02), "{values:?}");
    }

    #[test]
    fn too_few_pixels_are_refused() {
        let image = RgbImage {
            width: 3,
            height: 2,
            pixels: vec![0; 17].into(),
        };
        let error = patches(&image, 4, 4).unwrap_err().to_string();
        assert!(
            error.contains("18 bytes") && error.contains("17 bytes"),
            "{error}"
        );
    }
}

//! Training-time augmentation of images.

use std::sync::Arc;

use dcsft_tensor::rng::StreamKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::RgbImage;

/// Random changes to a training image, drawn anew each time the image is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Mirror every other image left to right, and the boxes of question and answer with it. Not for answers that name
    /// a side.
    pub flip: bool,
    /// Shift by up to this many pixels of the source image in each direction; the edge is repeated. Not for answers
    /// that name a box.
    pub shift: u32,
}

/// What a sample asks and answers where its image is mirrored.
#[derive(Clone, Debug)]
pub struct Mirrored {
    /// The question.
    pub text: Arc<str>,
    /// The answer's token ids, with the end-of-sequence token.
    pub answer: Arc<[u32]>,
}

impl Augment {
    /// Whether the image is mirrored; a pure function of the key.
    pub fn flips(&self, key: &StreamKey) -> bool {
        self.flip && key.stream().uniform() < 0.5
    }

    /// The changed image; a pure function of the key.
    pub fn apply(&self, image: &RgbImage, key: &StreamKey) -> RgbImage {
        let mut stream = key.stream();
        let flip = self.flip && stream.uniform() < 0.5;
        let mut offset =
            || stream.below(2 * u64::from(self.shift) + 1) as i64 - i64::from(self.shift);
        let (dx, dy) = (offset(), offset());
        let (width, height) = (i64::from(image.width), i64::from(image.height));
        let mut pixels = Vec::with_capacity(image.pixels.len());
        for y in 0..height {
            let source_y = (y + dy).clamp(0, height - 1);
            for x in 0..width {
                let x = if flip { width - 1 - x } else { x };
                let source_x = (x + dx).clamp(0, width - 1);
                let start = 3 * (source_y * width + source_x) as usize;
                pixels.extend_from_slice(&image.pixels[start..start + 3]);
            }
        }
        RgbImage {
            pixels: pixels.into(),
            ..*image
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Augment;
    use crate::model::RgbImage;
    use dcsft_tensor::rng::StreamKey;

    fn image() -> RgbImage {
        let pixels: Vec<u8> = (0..4 * 3)
            .flat_map(|pixel| [pixel, pixel + 100, 0])
            .collect();
        RgbImage {
            width: 4,
            height: 3,
            pixels: pixels.into(),
        }
    }

    fn reds(image: &RgbImage) -> Vec<u8> {
        image.pixels.iter().step_by(3).copied().collect()
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        assert_eq!(
            Augment::default().apply(&image(), &StreamKey::new("test", 0)),
            image()
        );
    }

    #[test]
    fn a_flip_mirrors_the_rows_of_about_half_the_images() {
        let augment = Augment {
            flip: true,
            shift: 0,
        };
        let mirrored = [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8];
        let flips = (0..200)
            .map(|index| augment.apply(&image(), &StreamKey::new("test", 0).number(index)))
            .inspect(|changed| assert!(*changed == image() || reds(changed) == mirrored))
            .filter(|changed| *changed != image())
            .count();
        assert!((70..130).contains(&flips), "{flips}");
    }

    #[test]
    fn a_shift_repeats_the_edge_and_reaches_every_offset() {
        let augment = Augment {
            flip: false,
            shift: 1,
        };
        let seen: std::collections::BTreeSet<Vec<u8>> = (0..200)
            .map(|index| reds(&augment.apply(&image(), &StreamKey::new("test", 1).number(index))))
            .collect();
        assert_eq!(seen.len(), 9);
        assert!(
            seen.contains(&vec![5, 6, 7, 7, 9, 10, 11, 11, 9, 10, 11, 11]),
            "one right, one down"
        );
    }
}

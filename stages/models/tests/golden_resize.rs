//! Image sizes, resampling and patches against what the Python reference libraries computed.

mod support;

use std::path::Path;

use dcsft_models::processor::resize::{resize, smart_resize};
use dcsft_models::processor::{
    Filter, ImageSettings, Images as _, Patches, Resampling, SmartResize,
};
use dcsft_models::qwen2_5_vl::config::parse;
use dcsft_vlm::model::RgbImage;
use image::DynamicImage;
use image::metadata::Orientation;
use serde_json::Value;
use support::{Tensors, golden, numbers, read_json};

const RULES: [(&str, SmartResize); 2] = [
    ("transformers", SmartResize::Transformers),
    ("qwen_vl_utils", SmartResize::QwenVlUtils),
];

#[test]
fn golden_new_sizes_are_those_of_the_reference() {
    let Some(golden) = golden() else { return };
    let cases = read_json(&golden.join("processor/smart_resize.json"));
    let factor = cases["factor"].as_u64().unwrap() as usize;
    for row in cases["rows"].as_array().unwrap() {
        let [height, width, min, max] = ["height", "width", "min_pixels", "max_pixels"]
            .map(|key| row[key].as_u64().unwrap() as usize);
        for (key, rule) in RULES {
            let found = smart_resize(height, width, factor, min, max, rule);
            match row[key].as_array() {
                // qwen_vl_utils gives sizes of no pixels for some thin images, and fails when it resizes to them.
                Some(size) if !size.contains(&Value::from(0)) => {
                    let size: Vec<usize> = numbers(&row[key]);
                    assert_eq!(found.ok(), Some((size[0], size[1])), "{key} {row}");
                }
                _ => assert!(found.is_err(), "{key} {row} gives {found:?}"),
            }
        }
    }
}

/// An image of the set, by what reads it.
struct Image<'a> {
    name: &'a str,
    facts: &'a Value,
    /// As transformers decodes it.
    decoded: RgbImage,
    /// As PIL's `convert('RGB')` gives it: EXIF and transparency ignored.
    converted: RgbImage,
}

fn rgb(image: image::RgbImage) -> RgbImage {
    RgbImage {
        width: image.width(),
        height: image.height(),
        pixels: image.into_raw().into(),
    }
}

/// JPEG decoders differ by a level or two, so a JPEG starts from the stored pixels, turned back.
fn images<'a>(golden: &Path, index: &'a Value, tensors: &Tensors) -> Vec<Image<'a>> {
    let mut images = Vec::new();
    for (name, facts) in index["images"].as_object().unwrap() {
        let path = golden.join(facts["file"].as_str().unwrap());
        let read = image::open(&path).unwrap().into_rgb8();
        let stored = tensors
            .bytes(&format!("{name}.decoded_rgb_u8"))
            .map(|(shape, pixels)| {
                image::RgbImage::from_raw(shape[1] as u32, shape[0] as u32, pixels).unwrap()
            });
        let converted = match &stored {
            Some(stored) if path.extension().unwrap() != "png" => {
                let mut image = DynamicImage::from(stored.clone());
                let exif = facts["exif_orientation"].as_u64().unwrap_or(1);
                // 6 and 8 are quarter turns, each other's inverse; every other orientation is its own.
                let inverse = match exif {
                    6 => 8,
                    8 => 6,
                    own => own,
                };
                image.apply_orientation(Orientation::from_exif(inverse as u8).unwrap());
                image.into_rgb8()
            }
            _ => read.clone(),
        };
        images.push(Image {
            name,
            facts,
            decoded: rgb(stored.unwrap_or(read)),
            converted: rgb(converted),
        });
    }
    images
}

fn load(golden: &Path) -> (Value, Tensors) {
    let index = read_json(&golden.join("processor/images.json"));
    let tensors = Tensors::read(&golden.join("processor/images.safetensors"));
    (index, tensors)
}

/// Largest difference of two images of the same size.
fn apart(found: &RgbImage, (shape, expected): &(Vec<usize>, Vec<u8>), what: &str) -> u8 {
    assert_eq!(
        [found.height as usize, found.width as usize, 3],
        shape[..],
        "{what}"
    );
    let pairs = found.pixels.iter().zip(expected);
    pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn golden_resampled_pixels_are_those_of_the_reference() {
    let Some(golden) = golden() else { return };
    let (index, tensors) = load(&golden);
    for image in images(&golden, &index, &tensors) {
        let size: Vec<usize> = numbers(&image.facts["resized_hw"]);
        for (key, resampling) in [
            ("pil", Resampling::Pillow),
            ("torchvision", Resampling::Torchvision),
        ] {
            let name = format!("{}.{key}.resized_rgb_u8", image.name);
            let expected = tensors.bytes(&name).unwrap();
            let found = resize(
                &image.decoded,
                size[0],
                size[1],
                Filter::Bicubic,
                resampling,
            )
            .unwrap();
            assert_eq!(apart(&found, &expected, &name), 0, "{name}");
        }
    }
}

#[test]
fn golden_other_loaders_pixels_are_those_of_the_reference() {
    let Some(golden) = golden() else { return };
    let (index, tensors) = load(&golden);
    for image in images(&golden, &index, &tensors) {
        for key in ["qwen_vl_utils", "ms_swift_loader"] {
            let on_white = key == "qwen_vl_utils" && image.facts["mode"] == "RGBA";
            let source = if on_white {
                &image.decoded
            } else {
                &image.converted
            };
            let (min, max) = (&index["min_pixels"], &index["max_pixels"]);
            let [factor, min, max] =
                [&index["factor"], min, max].map(|value| value.as_u64().unwrap() as usize);
            let (height, width) = (source.height as usize, source.width as usize);
            let (height, width) =
                smart_resize(height, width, factor, min, max, SmartResize::QwenVlUtils).unwrap();
            let found = resize(source, height, width, Filter::Bicubic, Resampling::Pillow).unwrap();
            let own = format!("{}.{key}.resized_rgb_u8", image.name);
            let same = format!("{}.pil.resized_rgb_u8", image.name);
            let expected = tensors
                .bytes(&own)
                .or_else(|| tensors.bytes(&same))
                .unwrap();
            assert_eq!(apart(&found, &expected, &own), 0, "{own}");
        }
    }
}

#[test]
fn golden_patches_are_those_of_the_reference() {
    let Some(golden) = golden() else { return };
    let (index, tensors) = load(&golden);
    let dir = golden.join("ckpt");
    let config = read_json(&dir.join("config.json"));
    let vision = parse(config.as_object().unwrap()).unwrap().vision;
    let path = dir.join("preprocessor_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let settings = ImageSettings::from_json(&path, &text, &vision.patch_sizes()).unwrap();
    let mut compared = 0;
    for image in images(&golden, &index, &tensors) {
        for (key, resampling) in [
            ("pil", Resampling::Pillow),
            ("torchvision", Resampling::Torchvision),
        ] {
            let settings = ImageSettings {
                resampling,
                ..settings.clone()
            };
            let patches = settings.patches(&image.decoded).unwrap();
            assert_eq!(
                patches.grid.to_vec(),
                numbers::<usize>(&image.facts["image_grid_thw"])
            );
            let name = format!("{}.{key}.pixel_values", image.name);
            let Some((shape, expected)) = tensors.f32(&name) else {
                continue;
            };
            assert_eq!(
                shape,
                [patches.grid.iter().product(), vision.patch_values()],
                "{name}"
            );
            let frames = settings.temporal_patch_size;
            let values = Patches::pixels(&[&patches], settings.patch_size, frames).values();
            assert_eq!(values.len(), expected.len(), "{name}");
            let pairs = values.iter().zip(&expected);
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert_eq!(worst, 0.0, "{name}");
            compared += 1;
        }
    }
    assert!(compared > 0, "the golden set has no pixel values");
}

//! Image files, good and broken.

use std::path::Path;

use dcsft_stages::data::Dataset;
use image::codecs::png::PngEncoder;
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageFormat, Luma, LumaA, Rgb, RgbImage};
use image::{ExtendedColorType, ImageEncoder as _};
use serde_json::json;

use crate::{Folder, problem, text};

#[test]
fn a_file_that_breaks_off_is_broken_wherever_it_does() {
    let folder = Folder::new();
    let noisy = RgbImage::from_fn(96, 96, |x, y| {
        Rgb([(x * 37 + y * 91) as u8, (x * y) as u8, (x ^ y) as u8])
    });
    for (name, format) in [
        ("n.png", ImageFormat::Png),
        ("n.jpg", ImageFormat::Jpeg),
        ("n.webp", ImageFormat::WebP),
    ] {
        DynamicImage::ImageRgb8(noisy.clone())
            .save_with_format(folder.path(name), format)
            .unwrap();
        let bytes = std::fs::read(folder.path(name)).unwrap();
        for keep in [30, 60, 90, 98] {
            std::fs::write(folder.path(name), &bytes[..bytes.len() * keep / 100]).unwrap();
            let import = folder.import(
                text(&[problem("cat", name), problem("cat", "a.png")]),
                json!({}),
            );
            assert_eq!(import.drops()[&0].0, "broken_image", "{keep}% of {name}");
        }
    }
}

#[test]
fn grey_and_transparent_images_become_colours_on_white() {
    let folder = Folder::new();
    DynamicImage::ImageLuma8(GrayImage::from_pixel(3, 2, Luma([77])))
        .save(folder.path("grey.png"))
        .unwrap();
    let clear = GrayAlphaImage::from_fn(3, 2, |x, _| LumaA([10, if x == 0 { 0 } else { 255 }]));
    DynamicImage::ImageLumaA8(clear)
        .save(folder.path("clear.png"))
        .unwrap();
    let data = folder
        .import(
            text(&[problem("a", "grey.png"), problem("b", "clear.png")]),
            json!({}),
        )
        .data();
    let pixels = |index: usize| data.image(&data.samples()[index]).unwrap().pixels.to_vec();
    assert_eq!(pixels(0), [77; 18]);
    assert_eq!(pixels(1)[..6], [255, 255, 255, 10, 10, 10]);
}

#[test]
fn names_that_no_file_can_have_are_dropped_like_others() {
    let folder = Folder::new();
    let long = "x".repeat(300);
    let names = ["a\0.png", long.as_str(), "a.png/b.png", ".", "a.png"];
    let records = names.map(|name| problem("cat", name));
    let import = folder.import(text(&records), json!({}));
    assert_eq!(import.data().len(), 1);
    let drops = import.drops();
    for index in 0..4 {
        assert_eq!(drops[&index].0, "unreadable_image", "{drops:?}");
    }
}

/// An image of 3 x 2 pixels with the EXIF orientation 6, a quarter turn.
fn turned(path: &Path) {
    let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut encoder = PngEncoder::new(std::fs::File::create(path).unwrap());
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    let pixels: Vec<u8> = (0..18).map(|value| value * 10).collect();
    encoder
        .write_image(&pixels, 3, 2, ExtendedColorType::Rgb8)
        .unwrap();
}

#[test]
fn an_exif_orientation_is_applied_or_ignored_and_the_samples_are_not_the_same() {
    let folder = Folder::new();
    turned(&folder.path("turned.png"));
    let import = |exif: &str| {
        let list = text(&[problem("cat", "turned.png")]);
        folder.import(list, json!({ "exif": exif })).data()
    };
    let (applied, ignored) = (import("apply"), import("ignore"));
    let image = |data: &Dataset| data.image(&data.samples()[0]).unwrap();
    let (upright, stored) = (image(&applied), image(&ignored));
    assert_eq!((upright.width, upright.height), (2, 3));
    assert_eq!((stored.width, stored.height), (3, 2));
    assert_eq!(stored.pixels[..6], [0, 10, 20, 30, 40, 50]);
    assert_eq!(upright.pixels[..6], [90, 100, 110, 0, 10, 20]);
    assert_ne!(applied.samples()[0].id, ignored.samples()[0].id);
}

/// The header's size is a claim; the pixels behind it need not be there.
#[test]
fn an_image_larger_than_memory_is_dropped_before_it_is_decoded() {
    let folder = Folder::new();
    let mut bytes = std::fs::read(folder.path("a.png")).unwrap();
    let side = 60_000_u32.to_be_bytes();
    bytes[16..20].copy_from_slice(&side);
    bytes[20..24].copy_from_slice(&side);
    let check = crc32(&bytes[12..29]).to_be_bytes();
    bytes[29..33].copy_from_slice(&check);
    std::fs::write(folder.path("huge.png"), bytes).unwrap();
    let records = [problem("cat", "huge.png"), problem("cat", "a.png")];
    let import = folder.import(text(&records), json!({}));
    let (reason, detail) = &import.drops()[&0];
    assert_eq!(reason, "large_image");
    assert!(detail.contains("60000 x 60000 pixels"), "{detail}");
}

/// The checksum of PNG's chunks.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32| (sum >> 1) ^ (0xedb8_8320 * (sum & 1));
    !bytes.iter().fold(!0, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| step(sum))
    })
}

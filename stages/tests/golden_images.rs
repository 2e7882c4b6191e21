//! Image decoding against what the Python reference sees.

mod common;

use common::{golden, read_json};
use dcsft_stages::data::{Encoding, Exif, decode, sniff};
use safetensors::SafeTensors;

#[test]
fn golden_images_decode_to_the_pixels_of_the_reference() {
    let (Some(index), Some(tensors)) = (
        golden("processor/images.json"),
        golden("processor/images.safetensors"),
    ) else {
        return;
    };
    let folder = index.parent().unwrap().parent().unwrap().to_owned();
    let bytes = std::fs::read(tensors).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let images = read_json(&index)["images"].as_object().unwrap().clone();
    let mut compared = 0;
    for (name, facts) in &images {
        let path = folder.join(facts["file"].as_str().unwrap());
        let file = std::fs::read(&path).unwrap();
        let format = sniff(&file).unwrap_or_else(|| panic!("{name} has no known format"));
        let found = decode(file, format, None, Exif::Apply)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let size = &facts["size_after_exif_wh"];
        assert_eq!(
            [u64::from(found.width), u64::from(found.height)],
            [size[0].as_u64().unwrap(), size[1].as_u64().unwrap()]
        );
        let Ok(expected) = tensors.tensor(&format!("{name}.decoded_rgb_u8")) else {
            continue;
        };
        assert_eq!(
            expected.shape(),
            [found.height as usize, found.width as usize, 3],
            "{name}"
        );
        let apart: Vec<u8> = expected
            .data()
            .iter()
            .zip(found.pixels.iter())
            .map(|(a, b)| a.abs_diff(*b))
            .collect();
        let worst = apart.iter().max().unwrap();
        if format == Encoding::Jpeg {
            // Decoders round luma and chroma differently: one level each comes to 1 + 1.77 levels of blue.
            let beyond = apart.iter().filter(|levels| **levels > 2).count();
            assert!(
                *worst <= 3 && beyond * 1000 <= apart.len(),
                "{name}: {beyond} values above 2 levels, {worst} at most"
            );
        } else {
            assert_eq!(*worst, 0, "{name}");
        }
        compared += 1;
    }
    assert!(compared > 0, "the golden set has no decoded image");
}

//! Qwen3-VL against what Transformers and PEFT computed. `DCSFT_GOLDEN_QWEN3_VL` names another set of the same layout.

#![allow(
    clippy::print_stdout,
    reason = "the tables of differences are for people"
)]

mod support;

use dcsft_models::processor::resize::smart_resize;
use dcsft_models::processor::{Filter, Patches, Resampling, SmartResize, resize};
use dcsft_models::{HubModel, Sequence};
use serde_json::Value;
use support::set::{self, Place, Set};
use support::{images, numbers};

const PLACE: Place = Place {
    variable: "DCSFT_GOLDEN_QWEN3_VL",
    folder: "golden-qwen3-vl",
    logits: 1e-4,
};

fn check_images(set: &Set) {
    let model = set.model();
    let index = set.json("processor/images.json");
    let tensors = set.tensors("processor/images.safetensors");
    let decoded = images(&set.dir);
    let (mut exact, mut cuts) = (0, 0);
    for (name, facts) in index["images"].as_object().unwrap() {
        let image = &decoded[facts["file"].as_str().unwrap()];
        if let Some((shape, expected)) = tensors.bytes(&format!("{name}.resized_rgb_u8")) {
            let (filter, whose) = (Filter::Bicubic, Resampling::Pillow);
            let own = resize::resize(image, shape[0], shape[1], filter, whose).unwrap();
            assert_eq!(own.pixels[..], expected, "{name}");
            let seen = model
                .processor()
                .images()
                .seen(image.width, image.height)
                .unwrap();
            assert_eq!([seen.1 as usize, seen.0 as usize], shape[..2], "{name}");
            exact += 1;
        }
        if let Some((_, expected)) = tensors.f32(&format!("{name}.pixel_values")) {
            let own = model.processor().images().patches(image).unwrap();
            let values = Patches::pixels(&[&own], 16, 2).values();
            let worst = support::compare::largest(&values, &expected);
            assert!(worst <= 1e-6, "{name}: {worst}");
            cuts += 1;
        }
    }
    assert!(
        exact > 5 && cuts > 3,
        "{exact} pictures and {cuts} cuts compared"
    );
    check_sizes(&set.json("processor/resize_table.json"));
}

/// New sizes of many images: height, width, factor, least and largest area, and what comes of them.
fn check_sizes(table: &Value) {
    let rows = table["rows"].as_array().unwrap();
    for row in rows {
        let number = |name: &str| row[name].as_u64().unwrap() as usize;
        let size = smart_resize(
            number("height"),
            number("width"),
            number("factor"),
            number("min_pixels"),
            number("max_pixels"),
            SmartResize::Transformers,
        );
        match row.get("out_hw").filter(|size| size.is_array()) {
            Some(expected) => {
                let (height, width) = size.unwrap();
                assert_eq!(
                    [height, width].to_vec(),
                    numbers::<usize>(expected),
                    "{row}"
                );
            }
            None => assert!(size.is_err(), "{row}"),
        }
    }
    assert!(rows.len() > 10);
}

fn check_cases(set: &Set) {
    set::cases(set, |name, _, sequences, tensors| {
        let (shape, positions) = tensors.i64("position_ids").unwrap();
        let (_, deltas) = tensors.i64("rope_deltas").unwrap();
        let (_, mask) = tensors.i64("attention_mask").unwrap();
        let width = shape[2];
        for (row, sequence) in sequences.iter().enumerate() {
            let encoded = &sequence.encoded;
            let length = encoded.ids.len() as i64;
            for (axis, own) in encoded.positions.iter().enumerate() {
                let part = row * width..(row + 1) * width;
                let all = &positions[(axis * shape[1] + row) * width..][..width];
                let real = all.iter().zip(&mask[part]).filter(|(_, real)| **real == 1);
                let expected: Vec<i64> = real.map(|(position, _)| *position).collect();
                let own: Vec<i64> = own.iter().map(|&position| position.into()).collect();
                assert_eq!(own, expected, "{name}[{row}] axis {axis}");
            }
            let delta = i64::from(encoded.next_position) - length;
            assert_eq!(delta, deltas[row], "{name}[{row}]");
        }
        if let Some((_, grids)) = tensors.i64("image_grid_thw") {
            let own = sequences
                .iter()
                .flat_map(|sequence| &sequence.encoded.images);
            let own: Vec<i64> = own.flat_map(|image| image.grid.map(|n| n as i64)).collect();
            assert_eq!(own, grids, "{name}");
        }
    });
}

fn check_forward(set: &Set) {
    set::forward(set, |step, _: &HubModel, _: &[Sequence], own| {
        let step = step.strip_prefix("model.")?;
        Some(match step {
            "visual.patch_embed." => ("vision.patch_embed".into(), own),
            "visual.pos_embed." => ("vision.embeddings".into(), own),
            "visual.merger." => ("vision.out".into(), own),
            "language_model.embed_tokens." => ("text.hidden_0".into(), own),
            "language_model.norm." => ("text.final_norm".into(), own),
            _ => {
                if let Some((_, index)) = step.strip_prefix("visual.merger.aside.").map(|i| ((), i))
                {
                    return Some((format!("vision.deepstack_{index}"), own));
                }
                let (stack, index) = step.trim_end_matches('.').rsplit_once('.')?;
                let index: usize = index.parse().ok()?;
                match stack {
                    "language_model.layers" => (format!("text.hidden_{}", index + 1), own),
                    "visual.blocks" => (format!("vision.block{index}_out"), own),
                    _ => return None,
                }
            }
        })
    });
}

#[test]
fn golden_qwen3_vl_texts() {
    let Some(set) = PLACE.open() else { return };
    set::texts(&set);
}

#[test]
fn golden_qwen3_vl_images() {
    let Some(set) = PLACE.open() else { return };
    check_images(&set);
    check_cases(&set);
}

#[test]
fn golden_qwen3_vl_forward() {
    let Some(set) = PLACE.open() else { return };
    check_forward(&set);
}

#[test]
fn golden_qwen3_vl_generation() {
    let Some(set) = PLACE.open() else { return };
    set::generation(&set);
}

#[test]
fn golden_qwen3_vl_sft_full() {
    let Some(set) = PLACE.open() else { return };
    set::sft_full(&set);
}

#[test]
fn golden_qwen3_vl_sft_lora() {
    let Some(set) = PLACE.open() else { return };
    set::sft_lora(&set);
}

#[test]
fn golden_qwen3_vl_grpo() {
    let Some(set) = PLACE.open() else { return };
    set::grpo(&set);
}

#[test]
fn golden_qwen3_vl_export() {
    let Some(set) = PLACE.open() else { return };
    set::export(&set);
}

#[test]
fn golden_qwen3_vl_damage_is_noticed() {
    let file = "forward/single.safetensors";
    for tensor in [
        "logits",
        "vision.out",
        "vision.deepstack_0",
        "text.hidden_1",
    ] {
        set::notices(&PLACE, file, tensor, check_forward);
    }
    set::notices(&PLACE, file, "position_ids", check_cases);
    let file = "generate/generate.safetensors";
    set::notices(&PLACE, file, "plain.new_tokens", set::generation);
    let file = "grpo/grpo.safetensors";
    set::notices(&PLACE, file, "t1.0.policy_logps", set::grpo);
    let file = "processor/images.safetensors";
    set::notices(&PLACE, file, "main.resized_rgb_u8", check_images);
    let file = "ckpt/model.safetensors";
    let weight = "model.visual.merger.linear_fc1.weight";
    set::notices(&PLACE, file, weight, check_forward);
    set::notices(&PLACE, file, weight, set::sft_full);
}

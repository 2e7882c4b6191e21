//! Configuration, text, images and positions against what the Python reference libraries computed.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcsft_models::Config;
use dcsft_models::processor::{Encode, Encoded, Patches, Processor};
use dcsft_models::qwen2_5_vl::config::{QwenConfig, parse};
use dcsft_vlm::model::{RgbImage, Tokenizer};
use serde_json::Value;
use support::{Tensors, choose, conversation, golden, images, numbers, read_json};

/// The checkpoints of the set: both layouts of the configuration.
fn checkpoints(golden: &Path) -> Vec<(QwenConfig, Processor, PathBuf)> {
    let load = |name: &str| {
        let dir = golden.join(name);
        let config = Config::load(&dir).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.raw, read_json(&dir.join("config.json")));
        let family = &*config.family;
        let processor = Processor::load(&dir, family).unwrap_or_else(|error| panic!("{error}"));
        (
            parse(config.raw.as_object().unwrap()).unwrap(),
            processor,
            dir,
        )
    };
    ["ckpt", "ckpt_hub_bf16"].map(load).into()
}

#[test]
fn golden_both_layouts_of_the_configuration_say_the_same() {
    let Some(golden) = golden() else { return };
    let [(nested, ..), (flat, ..)] = <[_; 2]>::try_from(checkpoints(&golden)).ok().unwrap();
    assert_eq!(nested.text, flat.text);
    assert_eq!(nested.vision, flat.vision);
    assert_eq!(nested.image_token_id, flat.image_token_id);
    assert_eq!(nested.tie_word_embeddings, flat.tie_word_embeddings);
    let raw = |name: &str| read_json(&golden.join(name).join("config.json"));
    assert_eq!(raw("ckpt")["dtype"], nested.dtype.unwrap());
    assert_eq!(raw("ckpt_hub_bf16")["torch_dtype"], flat.dtype.unwrap());
}

#[test]
fn golden_tokenizer_gives_the_ids_and_texts_of_the_reference() {
    let Some(golden) = golden() else { return };
    let cases = read_json(&golden.join("processor/tokenizer_cases.json"));
    for (_, processor, _) in checkpoints(&golden) {
        let tokenizer = processor.tokenizer();
        let rows = cases["vocab_size_model"].as_u64().unwrap();
        assert_eq!(tokenizer.vocab_size() as u64, rows);
        for case in cases["encode"].as_array().unwrap() {
            let ids: Vec<u32> = numbers(&case["ids"]);
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        }
        let both = ["encode", "decode"].map(|key| cases[key].as_array().unwrap());
        for case in both.into_iter().flatten() {
            let ids: Vec<u32> = numbers(&case["ids"]);
            assert_eq!(
                tokenizer.decode(&ids),
                case["decoded_skip_special"],
                "{ids:?}"
            );
            assert_eq!(
                tokenizer.decode_with_special(&ids),
                case["decoded"],
                "{ids:?}"
            );
        }
    }
}

/// Row `row` of a batch, its padding left out.
struct Row {
    ids: Vec<u32>,
    positions: [Vec<u32>; 3],
    image_tokens: Vec<usize>,
    rope_delta: i64,
}

fn row(tensors: &Tensors, row: usize) -> Row {
    let (shape, mask) = tensors.i64("attention_mask").unwrap();
    let (rows, length) = (shape[0], shape[1]);
    let kept = |values: &[i64], row: usize| -> Vec<u32> {
        let span = row * length..(row + 1) * length;
        let mask = &mask[row % rows * length..];
        let kept = values[span]
            .iter()
            .zip(mask)
            .filter(|(_, mask)| **mask == 1);
        kept.map(|(value, _)| u32::try_from(*value).unwrap())
            .collect()
    };
    let positions = tensors.i64("position_ids").unwrap().1;
    let types = kept(&tensors.i64("mm_token_type_ids").unwrap().1, row);
    Row {
        ids: kept(&tensors.i64("input_ids").unwrap().1, row),
        positions: [0, 1, 2].map(|axis| kept(&positions, axis * rows + row)),
        image_tokens: (0..types.len()).filter(|&at| types[at] == 1).collect(),
        rope_delta: tensors.i64("rope_deltas").unwrap().1[row],
    }
}

#[test]
fn golden_conversations_are_rendered_and_encoded_as_by_the_reference() {
    let Some(golden) = golden() else { return };
    let images = images(&golden);
    let cases = read_json(&golden.join("forward/cases.json"));
    for (config, processor, _) in checkpoints(&golden) {
        for (name, case) in cases["cases"].as_object().unwrap() {
            check_case(&golden, name, case, &config, &processor, &images);
        }
    }
}

fn check_case(
    golden: &Path,
    name: &str,
    case: &Value,
    config: &QwenConfig,
    processor: &Processor,
    images: &BTreeMap<String, RgbImage>,
) {
    let tensors = Tensors::read(&golden.join(format!("forward/{name}.safetensors")));
    let options = Encode {
        generation_prompt: true,
        ..Encode::default()
    };
    let mut all: Vec<Encoded> = Vec::new();
    for (index, messages) in case["messages"].as_array().unwrap().iter().enumerate() {
        let (messages, paths) = conversation(messages);
        let render = |prompt, vision_id| processor.template().render(&messages, prompt, vision_id);
        assert_eq!(
            render(true, false).unwrap(),
            case["rendered"][index],
            "{name}"
        );
        for (key, prompt, vision_id) in [
            ("rendered_add_vision_id", true, true),
            ("rendered_no_generation_prompt", false, false),
        ] {
            if let Some(expected) = case.get(key) {
                assert_eq!(
                    render(prompt, vision_id).unwrap(),
                    *expected,
                    "{name} {key}"
                );
            }
        }
        let chosen = choose(images, &paths);
        let encoded = processor.encode(&messages, &chosen, &options).unwrap();
        let expected = row(&tensors, index);
        assert_eq!(encoded.ids, expected.ids, "{name}[{index}]");
        assert_eq!(encoded.positions, expected.positions, "{name}[{index}]");
        let delta = i64::from(encoded.next_position) - encoded.ids.len() as i64;
        assert_eq!(delta, expected.rope_delta, "{name}[{index}]");
        let image_tokens: Vec<usize> = (0..encoded.ids.len())
            .filter(|&at| encoded.ids[at] == config.image_token_id)
            .collect();
        assert_eq!(image_tokens, expected.image_tokens, "{name}[{index}]");
        assert!(encoded.labels.iter().all(Option::is_none));
        let sizes: Vec<(u32, u32)> = chosen
            .iter()
            .map(|image| (image.width, image.height))
            .collect();
        let counted = processor.count_tokens(&messages, &sizes, &options).unwrap();
        assert_eq!(counted, encoded.ids.len(), "{name}[{index}]");
        all.push(encoded);
    }
    let patches = || all.iter().flat_map(|encoded| &encoded.images);
    let grids: Vec<usize> = patches().flat_map(|patches| patches.grid).collect();
    let expected = tensors
        .i64("image_grid_thw")
        .map_or(Vec::new(), |(_, grids)| grids);
    assert_eq!(
        grids.iter().map(|&side| side as i64).collect::<Vec<_>>(),
        expected,
        "{name}"
    );
    let vision = &config.vision;
    if let Some((_, expected)) = tensors.f32("pixel_values") {
        let values: Vec<f32> = patches()
            .flat_map(|patches| {
                Patches::pixels(&[patches], vision.patch_size, vision.temporal_patch_size).values()
            })
            .collect();
        assert!(values == expected, "{name}: the patches differ");
    }
}

#[test]
fn golden_training_samples_have_the_ids_and_labels_of_the_reference() {
    let Some(golden) = golden() else { return };
    let images = images(&golden);
    let sft = read_json(&golden.join("sft/sft.json"));
    for (_, processor, _) in checkpoints(&golden) {
        for sample in sft["samples"].as_array().unwrap() {
            let (messages, paths) = conversation(&sample["messages"]);
            let rendered = processor
                .template()
                .render(&messages, false, false)
                .unwrap();
            assert_eq!(rendered, sample["chat_template_text"]);
            let chosen = choose(&images, &paths);
            let encoded = processor
                .encode(&messages, &chosen, &Encode::default())
                .unwrap();
            assert_eq!(encoded.ids, numbers::<u32>(&sample["input_ids"]));
            let labels: Vec<i64> = encoded
                .labels
                .iter()
                .map(|label| label.map_or(-100, i64::from))
                .collect();
            assert_eq!(labels, numbers::<i64>(&sample["labels"]));
            let grids: Vec<usize> = encoded.images.iter().flat_map(|image| image.grid).collect();
            let expected = sample["image_grid_thw"].as_array().into_iter().flatten();
            assert_eq!(
                grids,
                expected.flat_map(numbers::<usize>).collect::<Vec<_>>()
            );
            let text = processor.tokenizer().decode_with_special(
                &encoded
                    .labels
                    .iter()
                    .flatten()
                    .copied()
                    .collect::<Vec<u32>>(),
            );
            assert_eq!(text, sample["label_text"]);
        }
    }
}

#[test]
fn golden_files_are_written_back_unchanged() {
    let Some(golden) = golden() else { return };
    for (_, processor, dir) in checkpoints(&golden) {
        let copy = tempfile::tempdir().unwrap();
        processor.save(copy.path()).unwrap();
        let mut written = 0;
        for entry in std::fs::read_dir(copy.path()).unwrap() {
            let entry = entry.unwrap();
            let original: Arc<[u8]> = std::fs::read(dir.join(entry.file_name())).unwrap().into();
            assert_eq!(*std::fs::read(entry.path()).unwrap(), *original);
            written += 1;
        }
        assert!(written >= 3);
        let config = Config::load(&dir).unwrap();
        Processor::load(copy.path(), &*config.family).unwrap();
    }
}

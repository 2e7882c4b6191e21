//! Whatever is exact: texts, ids, labels, positions.

use dcsft_models::processor::Encode;
use dcsft_models::{HubModel, Sequence};
use dcsft_vlm::model::Tokenizer as _;

use super::super::{Tensors, choose, conversation, numbers};
use super::{Set, unpadded};

/// Texts, templates, ids, labels: whatever is exact and needs no image's pixels.
pub(crate) fn texts(set: &Set) {
    let model = set.model();
    let tokenizer = model.processor().tokenizer();
    for case in set.json("processor/tokenizer_cases.json")["encode"]
        .as_array()
        .unwrap()
    {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, numbers::<u32>(&case["ids"]), "{text:?}");
        assert_eq!(
            tokenizer.decode_with_special(&ids),
            case["decoded"],
            "{text:?}"
        );
        assert_eq!(
            tokenizer.decode(&ids),
            case["decoded_skip_special"],
            "{text:?}"
        );
    }
    for case in set.json("processor/chat_cases.json").as_array().unwrap() {
        let (messages, _) = conversation(&case["messages"]);
        for (key, prompt, vision_id) in [
            ("with_generation_prompt", true, false),
            ("without_generation_prompt", false, false),
            ("with_vision_id", true, true),
        ] {
            let Some(expected) = case.get(key) else {
                continue;
            };
            let text = model
                .processor()
                .template()
                .render(&messages, prompt, vision_id);
            assert_eq!(text.unwrap(), *expected, "{key} of {messages:?}");
        }
    }
    let sft = set.json("sft/sft.json");
    for sample in sft["samples"].as_array().unwrap() {
        let encoded = set.sequence(&model, &sample["messages"], false).encoded;
        assert_eq!(encoded.ids, numbers::<u32>(&sample["input_ids"]));
        let labels = encoded.labels.iter();
        let labels: Vec<i64> = labels.map(|label| label.map_or(-100, i64::from)).collect();
        assert_eq!(labels, numbers::<i64>(&sample["labels"]));
    }
}

/// Ids and positions of every case, and what `more` checks of it.
pub(crate) fn cases(set: &Set, more: impl Fn(&str, &HubModel, &[Sequence], &Tensors)) {
    for name in set.case_names() {
        let model = set.model_for(&name);
        let tensors = set.tensors(&format!("forward/{name}.safetensors"));
        let sequences = set.case(&model, &name);
        let (shape, ids) = tensors.i64("input_ids").unwrap();
        let (_, mask) = tensors.i64("attention_mask").unwrap();
        let width = shape[1];
        for (row, sequence) in sequences.iter().enumerate() {
            let part = row * width..(row + 1) * width;
            let expected = unpadded(&ids[part.clone()], &mask[part]);
            let own: Vec<i64> = sequence.encoded.ids.iter().map(|&id| id.into()).collect();
            assert_eq!(own, expected, "{name}[{row}]");
            // A count by sizes alone comes to the same.
            let messages = &set.cases[name.as_str()]["messages"][row];
            let (messages, paths) = conversation(messages);
            let sizes: Vec<(u32, u32)> = choose(&set.images, &paths)
                .iter()
                .map(|image| (image.width, image.height))
                .collect();
            let count = model
                .processor()
                .count_tokens(&messages, &sizes, &Encode::PROMPT);
            assert_eq!(count.unwrap(), own.len());
        }
        more(&name, &model, &sequences, &tensors);
    }
}

//! A small checkpoint without weights, for tests that need no golden data.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Special tokens, in the order of their ids: 256 and on, after the bytes.
pub(crate) const SPECIAL: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
];

/// The id of a special token.
pub(crate) fn special(token: &str) -> u32 {
    let index = SPECIAL.iter().position(|special| *special == token);
    256 + index.unwrap() as u32
}

/// A configuration in the published, flat layout.
pub(crate) fn config() -> Value {
    json!({
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_position_embeddings": 1024,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "vocab_size": 272,
        "torch_dtype": "bfloat16",
        "image_token_id": special("<|image_pad|>"),
        "video_token_id": special("<|video_pad|>"),
        "vision_start_token_id": special("<|vision_start|>"),
        "vision_end_token_id": special("<|vision_end|>"),
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 4,
            "intermediate_size": 40,
            "out_hidden_size": 32,
            "in_chans": 3,
            "fullatt_block_indexes": [1]
        }
    })
}

pub(crate) fn preprocessor() -> Value {
    json!({"size": {"shortest_edge": 784, "longest_edge": 7840}, "patch_size": 14, "merge_size": 2})
}

pub(crate) const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
    {% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}\
    {% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Every byte is a token.
pub(crate) fn tokenizer() -> Value {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let letters = alphabet.iter().enumerate();
    let vocab: serde_json::Map<String, Value> = letters
        .map(|(id, letter)| (letter.to_string(), json!(id)))
        .collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .map(|token| {
            json!({"id": special(token), "content": token, "special": true, "normalized": false,
                   "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    })
}

/// Writes the checkpoint's files.
pub(crate) fn write(dir: &Path) {
    write_json(dir, "config.json", &config());
    write_json(dir, "preprocessor_config.json", &preprocessor());
    write_json(dir, "tokenizer.json", &tokenizer());
    let settings = json!({"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>"});
    write_json(dir, "tokenizer_config.json", &settings);
    write_json(
        dir,
        "chat_template.json",
        &json!({"chat_template": TEMPLATE}),
    );
}

/// Writes one of its files anew.
pub(crate) fn write_json(dir: &Path, name: &str, value: &Value) {
    std::fs::write(dir.join(name), value.to_string()).unwrap();
}

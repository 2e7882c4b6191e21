//! The fields of `config.json`: those that are read, and those that would ask for another computation.

use serde_json::{Map, Value};

use crate::decoder::DECODER_FIELDS;
use crate::fields::{Known, Only, short};

/// Fields of the language model that are read.
const TEXT: [&[&str]; 2] = [DECODER_FIELDS, &["layer_types", "use_sliding_window"]];

/// Without sliding windows these have no effect.
const WINDOWS: &[&str] = &["max_window_layers", "sliding_window"];

/// Token ids that no forward pass depends on; `vision_token_id` is of the published files.
const TOKENS: &[&str] = &[
    "image_token_id",
    "video_token_id",
    "vision_end_token_id",
    "vision_start_token_id",
    "vision_token_id",
];

/// The queries', keys' and values' layers have a bias, the others of the decoder have none, whatever a field says.
const TEXT_ONLY: &[(&str, Only)] = &[
    ("attention_bias", Only::True),
    ("attention_dropout", Only::Number(0.0)),
    ("mlp_bias", Only::Off),
    ("qkv_bias", Only::True),
];

const SECTION: Known = Known {
    read: &TEXT,
    idle: &[WINDOWS, TOKENS],
    only: &[TEXT_ONLY],
    ..Known::SECTION
};

const TOP: Known = Known {
    read: &[&["text_config", "vision_config"]],
    idle: &[TEXT[0], TEXT[1], WINDOWS, TOKENS],
    only: &[TEXT_ONLY],
    ..Known::SECTION
};

/// `tokens_per_second` is about videos.
const VISION: Known = Known {
    read: &[&[
        "depth",
        "fullatt_block_indexes",
        "hidden_act",
        "hidden_size",
        "in_channels",
        "in_chans",
        "intermediate_size",
        "num_heads",
        "out_hidden_size",
        "patch_size",
        "rope_parameters",
        "spatial_merge_size",
        "spatial_patch_size",
        "temporal_patch_size",
        "window_size",
    ]],
    // Transformers' generic code writes here too whether the model as a whole ties its embeddings.
    idle: &[&[
        "initializer_range",
        "tie_word_embeddings",
        "tokens_per_second",
    ]],
    only: &[&[
        ("attention_dropout", Only::Number(0.0)),
        ("rms_norm_eps", Only::Number(1e-6)),
        ("rope_theta", Only::Number(10_000.0)),
    ]],
    ..Known::SECTION
};

/// Model types of the sections.
const TEXT_TYPES: [&str; 2] = ["qwen2_5_vl_text", "qwen2_5_vl"];
const VISION_TYPES: [&str; 2] = ["qwen2_5_vl_vision", "qwen2_5_vl"];

/// Checks that nothing in the file asks for another computation.
pub(super) fn check(top: &Map<String, Value>) -> Result<(), String> {
    TOP.check("", top)?;
    let text = top.get("text_config").and_then(Value::as_object);
    if let Some(text) = text {
        SECTION.check("text_config.", text)?;
        check_type("text_config", text, &TEXT_TYPES)?;
        check_places(top, text)?;
    }
    if let Some(vision) = top.get("vision_config").and_then(Value::as_object) {
        VISION.check("vision_config.", vision)?;
        check_type("vision_config", vision, &VISION_TYPES)?;
    }
    Ok(())
}

fn check_type(name: &str, section: &Map<String, Value>, types: &[&str]) -> Result<(), String> {
    match section.get("model_type").and_then(Value::as_str) {
        Some(other) if !types.contains(&other) => Err(format!(
            "`{name}.model_type` is {other:?}, and only {:?} can be read",
            types[0]
        )),
        _ => Ok(()),
    }
}

/// Beside `text_config` Transformers does not look for a setting of the language model at the top level, where older
/// versions kept it: one that stands there alone, or says something else, would be read in two ways.
fn check_places(top: &Map<String, Value>, text: &Map<String, Value>) -> Result<(), String> {
    let given = |fields: &Map<String, Value>, name: &str| {
        let value = fields.get(name).filter(|value| !value.is_null());
        value.cloned()
    };
    for &name in TEXT.into_iter().flatten() {
        let Some(above) = given(top, name) else {
            continue;
        };
        match given(text, name) {
            Some(inner) if plain(&inner) == plain(&above) => {}
            // One of the two places is enough for it, and both are read.
            None if name == "tie_word_embeddings" => {}
            // Numbers are drawn with it, and none is read.
            _ if name == "initializer_range" => {}
            Some(inner) => {
                return Err(format!(
                    "`{name}` is {} and `text_config.{name}` {}; take out the one that is not meant",
                    short(&above),
                    short(&inner)
                ));
            }
            None => {
                return Err(format!(
                    "`{name}` stands beside `text_config`, where Transformers does not look for it; move it into \
                     `text_config`"
                ));
            }
        }
    }
    Ok(())
}

/// A value without the two names of the same kind of rotary positions, of which writers leave one or both.
fn plain(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, kind| {
            let named = matches!(name.as_str(), "rope_type" | "type");
            let usual = named && matches!(kind.as_str(), Some("default" | "mrope"));
            !usual && !kind.is_null()
        });
    }
    value
}

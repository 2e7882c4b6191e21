//! What is said about a configuration that cannot be read.

mod support;

use std::path::Path;

use dcsft_qwen::config::QwenConfig;
use serde_json::{Value, json};
use support::checkpoint::config;

fn read(config: &Value) -> Result<QwenConfig, String> {
    let read = QwenConfig::from_json(Path::new("config.json"), &config.to_string());
    read.map_err(|error| error.to_string())
}

/// The error of the valid configuration with one field changed; `null` takes it away.
fn error(pointer: &str, value: Value) -> String {
    let mut config = config();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let object = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        object.remove(key);
    } else {
        object.insert(key.to_owned(), value);
    }
    read(&config).unwrap_err()
}

#[test]
fn the_published_layout_is_read_with_defaults_of_the_vision_tower() {
    let read = read(&config()).unwrap();
    assert_eq!(read.text.head_dim, 8);
    assert_eq!(read.text.mrope_section, [1, 1, 2]);
    assert_eq!(read.dtype.as_deref(), Some("bfloat16"));
    assert!(!read.tie_word_embeddings);
    let vision = &read.vision;
    assert_eq!((vision.patch_size, vision.window_size), (14, 112));
    assert_eq!(vision.patch_values(), 3 * 2 * 14 * 14);
    assert_eq!(vision.full_attention_blocks, [1]);
    assert_eq!(read.raw, config());
}

#[test]
fn the_text_configuration_goes_before_the_top_level() {
    let mut config = config();
    config["text_config"] = json!({"num_hidden_layers": 5, "rms_norm_eps": 1e-5});
    config["text_config"]["rope_parameters"] =
        json!({"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 1, 1]});
    let read = read(&config).unwrap();
    assert_eq!((read.text.layers, read.text.hidden_size), (5, 32));
    assert_eq!(
        (read.text.rms_norm_eps, read.text.rope_theta),
        (1e-5, 500.0)
    );
    assert_eq!(read.text.mrope_section, [2, 1, 1]);
}

#[test]
fn another_architecture_is_named() {
    assert_eq!(
        error("/model_type", json!("llama")),
        "config.json: is a `llama` checkpoint, and only qwen2_5_vl can be read"
    );
    assert_eq!(
        error("/architectures", json!(["Qwen2ForCausalLM"])),
        "config.json: `architectures` is Qwen2ForCausalLM, and only Qwen2_5_VLForConditionalGeneration can be read"
    );
    assert_eq!(
        error("/model_type", Value::Null),
        "config.json: `model_type` is missing; it must be \"qwen2_5_vl\""
    );
}

#[test]
fn a_missing_or_wrong_field_is_named() {
    for (field, message) in [
        ("/hidden_size", "`hidden_size` is missing"),
        ("/rms_norm_eps", "`rms_norm_eps` is missing"),
        ("/rope_theta", "`rope_theta` is missing"),
        ("/image_token_id", "`image_token_id` is missing"),
        ("/vision_config", "`vision_config` is missing"),
        (
            "/rope_scaling/mrope_section",
            "`rope_scaling.mrope_section` is missing",
        ),
    ] {
        assert_eq!(error(field, Value::Null), format!("config.json: {message}"));
    }
    assert_eq!(
        error("/num_hidden_layers", json!("two")),
        "config.json: `num_hidden_layers` must be a positive integer, not \"two\""
    );
    assert_eq!(
        error("/vision_config/depth", json!(0)),
        "config.json: `vision_config.depth` must be a positive integer, not 0"
    );
    let broken = QwenConfig::from_json(Path::new("config.json"), "{").unwrap_err();
    assert!(
        broken.to_string().starts_with("config.json: no JSON"),
        "{broken}"
    );
}

#[test]
fn sizes_that_do_not_fit_together_are_refused() {
    for (field, value, part) in [
        (
            "/num_attention_heads",
            json!(5),
            "5 attention heads do not divide",
        ),
        ("/num_key_value_heads", json!(3), "3 key and value heads"),
        (
            "/rope_scaling/mrope_section",
            json!([1, 1, 1]),
            "sum to half",
        ),
        (
            "/vision_config/num_heads",
            json!(3),
            "multiple of 4 times the 3 heads",
        ),
        (
            "/vision_config/out_hidden_size",
            json!(64),
            "out_hidden_size` is 64",
        ),
        (
            "/vision_config/fullatt_block_indexes",
            json!([2]),
            "names block 2",
        ),
        ("/vision_config/in_chans", json!(1), "images have 3"),
        (
            "/vision_config/window_size",
            json!(14),
            "smaller than one token",
        ),
        ("/image_token_id", json!(272), "has 272 rows"),
    ] {
        let error = error(field, value);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn variants_that_are_not_built_are_refused() {
    for (field, value, part) in [
        ("/use_sliding_window", json!(true), "sliding-window"),
        (
            "/layer_types",
            json!(["sliding_attention"]),
            "sliding-window",
        ),
        ("/hidden_act", json!("gelu"), "`hidden_act` is \"gelu\""),
        (
            "/vision_config/hidden_act",
            json!("quick_gelu"),
            "`vision_config.hidden_act`",
        ),
        (
            "/rope_scaling/type",
            json!("yarn"),
            "`rope_scaling.type` is \"yarn\"",
        ),
        (
            "/rope_scaling/rope_type",
            json!("linear"),
            "`rope_scaling.rope_type` is \"linear\"",
        ),
    ] {
        let error = error(field, value);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_folder_without_the_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = QwenConfig::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}

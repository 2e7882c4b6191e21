//! What is said about a configuration that cannot be read.

mod support;

use std::path::Path;

use dcsft_models::Config;
use dcsft_models::qwen2_5_vl::config::{QwenConfig, parse};
use serde_json::{Value, json};
use support::checkpoint::config;

fn read(config: &Value) -> Result<QwenConfig, String> {
    let path = Path::new("config.json");
    let read = Config::from_json(path, &config.to_string()).map_err(|error| error.to_string())?;
    assert_eq!(read.raw, *config);
    parse(read.raw.as_object().unwrap())
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
}

/// The valid configuration in the layout of Transformers 5: the language model's settings in `text_config`.
fn nested() -> Value {
    let mut config = config();
    let top = config.as_object_mut().unwrap();
    let mut text = serde_json::Map::new();
    for name in [
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "vocab_size",
    ] {
        text.insert(name.to_owned(), top.remove(name).unwrap());
    }
    top.remove("rope_theta");
    top.remove("rope_scaling");
    text.insert(
        "rope_parameters".to_owned(),
        json!({"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 1, 1]}),
    );
    top.insert("text_config".to_owned(), Value::Object(text));
    config
}

#[test]
fn the_language_model_has_a_section_of_its_own() {
    let plain = read(&nested()).unwrap();
    assert_eq!((plain.text.hidden_size, plain.text.rope_theta), (32, 500.0));
    assert_eq!(plain.text.mrope_section, [2, 1, 1]);
    // Writers between the versions leave the same settings at the top level too.
    let mut both = nested();
    both["num_hidden_layers"] = json!(2);
    both["text_config"]["rope_scaling"] = json!({"type": "mrope", "mrope_section": [2, 1, 1]});
    both["rope_scaling"] =
        json!({"type": "default", "rope_type": "default", "mrope_section": [2, 1, 1]});
    assert_eq!(read(&both).unwrap().text, plain.text);
    for (pointer, value, part) in [
        (
            "/num_hidden_layers",
            json!(3),
            "`num_hidden_layers` is 3 and `text_config",
        ),
        (
            "/head_dim",
            json!(8),
            "`head_dim` stands beside `text_config`",
        ),
        ("/rope_theta", json!(1e6), "`rope_theta` stands beside"),
        ("/text_config/rope_theta", json!(1e6), "take out the one"),
        (
            "/text_config/rope_scaling",
            json!({"type": "mrope", "mrope_section": [1, 1, 2]}),
            "take out the one",
        ),
        (
            "/text_config/model_type",
            json!("qwen3_vl_text"),
            "`text_config.model_type`",
        ),
        (
            "/vision_config/model_type",
            json!("qwen3_vl"),
            "`vision_config.model_type`",
        ),
    ] {
        let mut config = nested();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        let error = read(&config).unwrap_err();
        assert!(error.contains(part), "{pointer}: {error}");
    }
}

#[test]
fn whether_the_embedding_is_tied_may_stand_in_either_place() {
    for (top, text, tied) in [
        (json!(null), json!(true), Ok(true)),
        (json!(true), json!(null), Ok(true)),
        (json!(true), json!(true), Ok(true)),
        (json!(null), json!(null), Ok(false)),
        (json!(false), json!(true), Err("tie_word_embeddings")),
        (json!(true), json!(false), Err("tie_word_embeddings")),
    ] {
        let mut config = nested();
        config["tie_word_embeddings"] = top.clone();
        config["text_config"]["tie_word_embeddings"] = text.clone();
        match (read(&config), tied) {
            (Ok(config), Ok(tied)) => assert_eq!(config.tie_word_embeddings, tied),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expected) => panic!("{top}, {text}: {found:?} and not {expected:?}"),
        }
    }
}

/// What writers of all versions leave in a configuration that changes nothing.
#[test]
fn fields_that_no_number_depends_on_are_read_over() {
    let mut config = nested();
    for section in ["", "text_config", "vision_config"] {
        let target = match section {
            "" => &mut config,
            name => &mut config[name],
        };
        for (name, value) in json!({
            "_name_or_path": "", "_attn_implementation_autoset": true, "add_cross_attention": false,
            "bad_words_ids": null, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0, "do_sample": false,
            "id2label": {"0": "LABEL_0"}, "is_encoder_decoder": false, "max_length": 20, "min_length": 0,
            "num_beams": 1, "pruned_heads": {}, "return_dict": true, "temperature": 1.0, "top_k": 50,
            "torchscript": false, "transformers_version": "4.53.0", "typical_p": 1.0, "use_cache": true,
            "an_unknown_setting": null
        })
        .as_object()
        .unwrap()
        {
            target[name] = value.clone();
        }
    }
    config["text_config"]["layer_types"] = json!(["full_attention", "full_attention"]);
    config["text_config"]["sliding_window"] = json!(32768);
    config["text_config"]["attention_dropout"] = json!(0.0);
    config["vision_config"]["tokens_per_second"] = json!(2);
    config["vision_config"]["spatial_patch_size"] = json!(14);
    assert_eq!(read(&config).unwrap().text, read(&nested()).unwrap().text);
}

#[test]
fn another_architecture_is_named() {
    assert_eq!(
        error("/model_type", json!("llama")),
        "config.json: is a `llama` checkpoint, and only qwen2_5_vl, qwen3_vl and smolvlm can be read"
    );
    assert_eq!(
        error("/architectures", json!(["Qwen2ForCausalLM"])),
        "config.json: `architectures` is Qwen2ForCausalLM, and only Qwen2_5_VLForConditionalGeneration can be read"
    );
    assert_eq!(
        error("/model_type", Value::Null),
        "config.json: `model_type` is missing; only qwen2_5_vl, qwen3_vl and smolvlm can be read"
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
    let broken = Config::from_json(Path::new("config.json"), "{")
        .map(drop)
        .unwrap_err();
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
        (
            "/rope_scaling/factor",
            json!(4.0),
            "`rope_scaling.factor` is 4",
        ),
        (
            "/rope_scaling/mrope_interleaved",
            json!(true),
            "mrope_interleaved",
        ),
        (
            "/rope_parameters",
            json!({"rope_type": "yarn", "factor": 4.0, "mrope_section": [1, 1, 2]}),
            "`rope_parameters.rope_type` is \"yarn\"",
        ),
        (
            "/attention_dropout",
            json!(0.1),
            "`attention_dropout` is 0.1",
        ),
        ("/attention_bias", json!(false), "`attention_bias` is false"),
        ("/mlp_bias", json!(true), "`mlp_bias` is true"),
        ("/head_dim", json!(16), "`head_dim` is 16"),
        (
            "/layer_types",
            json!(["linear_attention"]),
            "sliding-window",
        ),
        (
            "/quantization_config",
            json!({"quant_method": "awq", "bits": 4}),
            "`quantization_config` is",
        ),
        ("/suppress_tokens", json!([3]), "`suppress_tokens` is [3]"),
        ("/logit_scale", json!(0.5), "`logit_scale` is 0.5"),
        (
            "/vision_config/deepstack_visual_indexes",
            json!([1]),
            "`vision_config.deepstack_visual_indexes`",
        ),
        (
            "/vision_config/rms_norm_eps",
            json!(1e-5),
            "`vision_config.rms_norm_eps`",
        ),
        (
            "/vision_config/spatial_patch_size",
            json!(16),
            "spatial_patch_size",
        ),
        (
            "/vision_config/rope_parameters",
            json!({"rope_type": "yarn"}),
            "`vision_config.rope_parameters.rope_type`",
        ),
        (
            "/num_hidden_layers",
            json!(1_000_000_000u64),
            "1000000000, and 1024 is the most",
        ),
        (
            "/vision_config/depth",
            json!(1_000_000),
            "1000000, and 1024 is the most",
        ),
        (
            "/hidden_size",
            json!(1u64 << 40),
            "is the most that can be read",
        ),
        (
            "/vision_config/patch_size",
            json!(100_000),
            "`patch_size` is 100000",
        ),
    ] {
        let error = error(field, value);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_folder_without_the_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Config::load(dir.path()).map(drop).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}

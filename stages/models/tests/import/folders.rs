//! Checkpoints without adapters.

use burn::tensor::Device;
use dcsft_models::{HubModel, inspect};
use serde_json::json;

use crate::made::{Folder, is_close, read, shard_name, write};
use crate::support::checkpoint::{preprocessor, special};

/// What becomes of a changed folder.
enum Outcome {
    /// The model answers as that of the folder before the change.
    Same,
    /// It answers otherwise, as it has to.
    Other,
    /// It is refused in words that hold all of these.
    Refused(&'static [&'static str]),
}
use Outcome::{Other, Refused, Same};

/// Where the trouble was seen, what is done to the folder, and what has to come of it.
type Case = (&'static str, fn(&Folder), Outcome);

fn check(cases: &[Case]) {
    let plain = Folder::new().answer().unwrap();
    for (source, change, outcome) in cases {
        let folder = Folder::new();
        change(&folder);
        match (folder.answer(), outcome) {
            (Ok(answer), Same) => assert!(is_close(&answer, &plain), "{source}: {answer:?}"),
            (Ok(answer), Other) => assert!(!is_close(&answer, &plain), "{source}: {answer:?}"),
            (Err(error), Refused(parts)) => {
                for part in *parts {
                    assert!(error.contains(part), "{source}: {error}");
                }
            }
            (Ok(_), Refused(parts)) => panic!("{source}: taken, and not refused with {parts:?}"),
            (Err(error), _) => panic!("{source}: {error}"),
        }
    }
}

#[test]
fn weights_are_found_as_transformers_finds_them() {
    let cases: &[Case] = &[
        (
            "illuin-tech/colpali#424",
            |folder| {
                folder.rename("model.safetensors", |name| {
                    let name = name.replacen("model.", "model.language_model.", 1);
                    match name.strip_prefix("visual.") {
                        Some(rest) => format!("model.visual.{rest}"),
                        None => name,
                    }
                });
            },
            Same,
        ),
        (
            "modelscope/ms-swift#2340",
            |folder| {
                folder.shard();
                folder.remove("model.safetensors");
            },
            Same,
        ),
        (
            "unslothai/unsloth#10558",
            |folder| {
                folder.shard();
                let file = shard_name(0);
                folder.tensors(&file, |tensors| {
                    tensors
                        .values_mut()
                        .for_each(|tensor| *tensor = tensor.scaled(1.5));
                });
            },
            Same,
        ),
        (
            "Blaizzy/mlx-vlm#1464",
            |folder| {
                folder.shard();
                folder.remove("model.safetensors");
                folder.tensors(&shard_name(0), |tensors| {
                    tensors
                        .values_mut()
                        .for_each(|tensor| *tensor = tensor.scaled(1.5));
                });
            },
            Other,
        ),
        (
            "QwenLM/Qwen3-VL-Embedding#89",
            |folder| {
                folder.tensors("model.safetensors", |tensors| {
                    let embedding = tensors["model.embed_tokens.weight"].clone();
                    tensors.insert("lm_head.weight".into(), embedding);
                });
            },
            Same,
        ),
        (
            "vllm-project/vllm#51063",
            |folder| {
                folder.tensors("model.safetensors", |tensors| {
                    let embedding = tensors["model.embed_tokens.weight"].scaled(0.5);
                    tensors.insert("lm_head.weight".into(), embedding);
                });
            },
            Refused(&["lm_head.weight", "tie_word_embeddings"]),
        ),
        (
            "QwenLM/Qwen3-VL-Embedding#89",
            |folder| {
                folder.edit("config.json", "/tie_word_embeddings", json!(false));
            },
            Refused(&["lm_head.weight is missing"]),
        ),
        (
            "vllm-project/vllm#34186",
            |folder| {
                folder.rename("model.safetensors", |name| format!("module.{name}"));
            },
            Refused(&["is missing"]),
        ),
        (
            "Neph0s/CoSER#3",
            |folder| {
                folder.tensors("model.safetensors", |tensors| {
                    tensors.remove("model.layers.1.self_attn.q_proj.bias");
                });
            },
            Refused(&["layers.1.self_attn.q_proj.bias"]),
        ),
        (
            "Neph0s/CoSER#3",
            |folder| {
                folder.shard();
                folder.remove("model.safetensors");
                folder.remove(&shard_name(1));
            },
            Refused(&["model-00002-of-00002.safetensors"]),
        ),
        (
            "huggingface/diffusers#14811",
            |folder| {
                folder.remove("model.safetensors");
                folder.write("pytorch_model.bin", "PK\u{3}\u{4}");
            },
            Refused(&["pytorch_model.bin", "convert"]),
        ),
        (
            "huggingface/transformers#27923",
            |folder| {
                folder.write(
                    "model.safetensors",
                    "version https://git-lfs.github.com/spec/v1\noid sha256:4f\nsize 18\n",
                );
            },
            Refused(&["model.safetensors", "Git LFS pointer"]),
        ),
        (
            "microsoft/OmniParser#34",
            |folder| {
                folder.write(
                    "tokenizer.json",
                    "version https://git-lfs.github.com/spec/v1\noid sha256:4f\nsize 18\n",
                );
            },
            Refused(&["tokenizer.json", "Git LFS pointer"]),
        ),
        (
            "a config of more layers than tensors",
            |folder| {
                folder.edit("config.json", "/num_hidden_layers", json!(900));
            },
            Refused(&["900 layers"]),
        ),
        (
            "weights that are no numbers",
            |folder| {
                folder.tensors("model.safetensors", |tensors| {
                    let weight = tensors
                        .get_mut("model.layers.0.mlp.up_proj.weight")
                        .unwrap();
                    weight.bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
                });
            },
            Refused(&["model.layers.0.mlp.up_proj.weight", "NaN", "place 2"]),
        ),
        (
            "weights that are infinite",
            |folder| {
                folder.tensors("model.safetensors", |tensors| {
                    let weight = tensors.get_mut("model.norm.weight").unwrap();
                    weight.bytes[..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
                });
            },
            Refused(&["model.norm.weight", "-inf"]),
        ),
    ];
    check(cases);
}

#[test]
fn settings_act_or_are_refused() {
    let cases: &[Case] = &[
        (
            "illuin-tech/colpali#293",
            |folder| {
                for (name, value) in [
                    ("image_processor_type", json!("Qwen2VLImageProcessorFast")),
                    ("do_convert_rgb", json!(true)),
                    ("do_resize", json!(true)),
                    ("resample", json!(3)),
                    ("rescale_factor", json!(1.0 / 255.0)),
                    ("data_format", json!("channels_first")),
                ] {
                    folder.edit("preprocessor_config.json", &format!("/{name}"), value);
                }
            },
            Same,
        ),
        (
            "huggingface/transformers#44652",
            |folder| {
                folder.remove("preprocessor_config.json");
                let both = json!({"image_processor": preprocessor(), "processor_class": "Qwen2_5_VLProcessor"});
                folder.write("processor_config.json", both.to_string());
            },
            Same,
        ),
        (
            "huggingface/transformers#41474",
            |folder| {
                folder.edit("preprocessor_config.json", "/max_pixels", json!(784));
                let both = json!({"image_processor": preprocessor(), "processor_class": "Qwen2_5_VLProcessor"});
                folder.write("processor_config.json", both.to_string());
            },
            Same,
        ),
        (
            "huggingface/transformers#44652",
            |folder| {
                folder.remove("preprocessor_config.json");
                folder.write(
                    "processor_config.json",
                    "{\"processor_class\": \"Qwen2_5_VLProcessor\"}",
                );
            },
            Refused(&["preprocessor_config.json", "image_processor"]),
        ),
        (
            "bytedance/UI-TARS#165",
            |folder| {
                folder.edit(
                    "preprocessor_config.json",
                    "/size",
                    json!({"height": 224, "width": 224}),
                );
            },
            Refused(&["`size`"]),
        ),
        (
            "ertugrul-dmr/qwen2vl-captioner-gui#2",
            |folder| {
                let size = json!({"min_pixels": 784, "max_pixels": 7840});
                folder.edit("preprocessor_config.json", "/size", size);
            },
            Refused(&["`size`"]),
        ),
        (
            "QwenLM/Qwen3-VL#1052",
            |folder| {
                let path = folder.dir().join("preprocessor_config.json");
                let mut settings = preprocessor();
                settings["min_pixels"] = json!(null);
                settings["max_pixels"] = json!(null);
                std::fs::write(path, settings.to_string()).unwrap();
            },
            Same,
        ),
        (
            "another preparation of images",
            |folder| {
                folder.edit("preprocessor_config.json", "/do_center_crop", json!(true));
            },
            Refused(&["`do_center_crop` is true"]),
        ),
        (
            "another processor of images",
            |folder| {
                let kind = json!("Qwen3VLImageProcessor");
                folder.edit("preprocessor_config.json", "/image_processor_type", kind);
            },
            Refused(&["`image_processor_type`", "Qwen3VLImageProcessor"]),
        ),
        (
            "a preparation nobody knows",
            |folder| {
                folder.edit("preprocessor_config.json", "/sharpen", json!(0.5));
            },
            Refused(&["preprocessor_config.json", "`sharpen` is 0.5"]),
        ),
        (
            "sampling that no stage has",
            |folder| {
                folder.edit("generation_config.json", "/suppress_tokens", json!([3, 4]));
            },
            Refused(&["generation_config.json", "`suppress_tokens`"]),
        ),
        (
            "sampling that stages have params for",
            |folder| {
                folder.edit("generation_config.json", "/repetition_penalty", json!(1.05));
            },
            Same,
        ),
        (
            "vllm-project/vllm#25384",
            |folder| {
                folder.edit("config.json", "/use_sliding_window", json!(true));
            },
            Refused(&["sliding-window"]),
        ),
        (
            "sgl-project/sglang#26187",
            |folder| {
                let yarn = json!({"rope_type": "yarn", "factor": 4.0, "mrope_section": [1, 1, 2]});
                folder.edit("config.json", "/rope_parameters", yarn);
            },
            Refused(&["yarn"]),
        ),
        (
            "ModelTC/LightLLM#1582",
            |folder| {
                folder.edit("config.json", "/rope_scaling/type", json!("yarn"));
                let plain =
                    json!({"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]});
                folder.edit("config.json", "/rope_parameters", plain);
            },
            Refused(&["yarn"]),
        ),
        (
            "a quantised model",
            |folder| {
                folder.edit(
                    "config.json",
                    "/quantization_config",
                    json!({"quant_method": "gptq"}),
                );
            },
            Refused(&["`quantization_config`", "gptq"]),
        ),
    ];
    check(cases);
}

#[test]
fn the_tokenizers_files_mean_one_tokenizer() {
    let cases: &[Case] = &[
        (
            "tokens that the tokenizer does not have",
            |folder| {
                let token = json!({"300": {"content": "<new>", "special": true}});
                folder.edit("tokenizer_config.json", "/added_tokens_decoder", token);
            },
            Refused(&["added_tokens_decoder", "<new>"]),
        ),
        (
            "tokens that the tokenizer has",
            |folder| {
                let token = json!({"content": "<|im_end|>", "special": true, "lstrip": false});
                let tokens = json!({special("<|im_end|>").to_string(): token});
                folder.edit("tokenizer_config.json", "/added_tokens_decoder", tokens);
            },
            Same,
        ),
        (
            "tokens that swallow spaces",
            |folder| {
                let token = json!({"content": "<|im_end|>", "lstrip": true});
                let tokens = json!({special("<|im_end|>").to_string(): token});
                folder.edit("tokenizer_config.json", "/added_tokens_decoder", tokens);
            },
            Refused(&["lstrip"]),
        ),
        (
            "another id",
            |folder| {
                folder.write("added_tokens.json", "{\"<|im_end|>\": 3}");
            },
            Refused(&["added_tokens.json", "<|im_end|>"]),
        ),
        (
            "another end",
            |folder| {
                folder.write(
                    "special_tokens_map.json",
                    "{\"eos_token\": \"<|endoftext|>\"}",
                );
            },
            Refused(&["special_tokens_map.json", "eos_token"]),
        ),
        (
            "a token before every text",
            |folder| {
                folder.edit("tokenizer_config.json", "/add_bos_token", json!(true));
            },
            Refused(&["`add_bos_token` is true"]),
        ),
        (
            "cleaned answers",
            |folder| {
                let field = "/clean_up_tokenization_spaces";
                folder.edit("tokenizer_config.json", field, json!(true));
            },
            Refused(&["`clean_up_tokenization_spaces`"]),
        ),
        (
            "another tokenizer",
            |folder| {
                folder.edit(
                    "tokenizer_config.json",
                    "/tokenizer_class",
                    json!("LlamaTokenizer"),
                );
            },
            Refused(&["tokenizer_class", "LlamaTokenizer"]),
        ),
        (
            "tokens by chance",
            |folder| {
                folder.edit("tokenizer.json", "/model/dropout", json!(0.1));
            },
            Refused(&["tokenizer.json", "dropout"]),
        ),
        (
            "two templates",
            |folder| {
                folder.write("chat_template.jinja", "{{ messages }}");
            },
            Refused(&["chat_template.json", "chat_template.jinja"]),
        ),
    ];
    check(cases);
}

/// huggingface/transformers#33401: the end of an answer where no `generation_config.json` says it.
#[test]
fn answers_end_where_the_files_say() {
    let folder = Folder::new();
    let plain = folder.answer().unwrap();
    let first = plain.tokens[0];
    folder.edit("generation_config.json", "/eos_token_id", json!([first]));
    assert_eq!(folder.answer().unwrap().tokens, [first]);
    folder.remove("generation_config.json");
    folder.edit("config.json", "/eos_token_id", json!(first));
    assert_eq!(folder.answer().unwrap().tokens, [first]);
}

/// The folder of the Hugging Face cache holds links to files elsewhere.
#[cfg(unix)]
#[test]
fn links_of_the_users_own_are_followed() {
    let folder = Folder::new();
    let plain = folder.answer().unwrap();
    let blobs = folder.beside("blobs");
    std::fs::rename(folder.dir(), &blobs).unwrap();
    std::fs::create_dir(folder.dir()).unwrap();
    for entry in std::fs::read_dir(&blobs).unwrap() {
        let name = entry.unwrap().file_name();
        std::os::unix::fs::symlink(blobs.join(&name), folder.dir().join(&name)).unwrap();
    }
    assert!(is_close(&folder.answer().unwrap(), &plain));
}

#[test]
fn an_index_names_files_of_its_folder_alone() {
    let victim = "victim.safetensors";
    for name in [
        "../victim.safetensors",
        "sub/../../victim.safetensors",
        "sub/x.safetensors",
        ".x.safetensors",
        "",
        ".",
        "..",
        "a\\b.safetensors",
        "config.json",
        "@ABSOLUTE",
    ] {
        let folder = Folder::new();
        let tensors = read(&folder.dir().join("model.safetensors"));
        let outside = folder.beside(victim);
        write(&outside, &tensors);
        let before = std::fs::read(&outside).unwrap();
        std::fs::create_dir(folder.dir().join("sub")).unwrap();
        for copy in ["sub/x.safetensors", ".x.safetensors"] {
            write(&folder.dir().join(copy), &tensors);
        }
        folder.remove("model.safetensors");
        let name = name.replace("@ABSOLUTE", &outside.to_string_lossy());
        let map: serde_json::Map<_, _> = tensors
            .keys()
            .map(|tensor| (tensor.clone(), json!(name)))
            .collect();
        folder.write(
            "model.safetensors.index.json",
            json!({"weight_map": map}).to_string(),
        );
        let error = folder
            .import()
            .err()
            .unwrap_or_else(|| panic!("{name:?} was read"));
        assert!(error.contains("model.safetensors.index.json"), "{error}");
        assert_eq!(std::fs::read(&outside).unwrap(), before, "{name:?}");
        let quick = inspect(&folder.dir(), true).unwrap_err().to_string();
        assert_eq!(quick, error);
    }
}

#[test]
fn files_that_are_there_are_not_written_over() {
    let folder = Folder::new();
    let to = folder.beside("imported");
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("model.safetensors"), "somebody's").unwrap();
    let found = dcsft_models::import(&folder.dir(), &to, Default::default());
    assert!(found.is_err());
    let kept = std::fs::read(to.join("model.safetensors")).unwrap();
    assert_eq!(kept, b"somebody's");
}

#[test]
fn a_quick_look_finds_another_family() {
    let folder = Folder::new();
    inspect(&folder.dir(), true).unwrap();
    folder.edit("config.json", "/model_type", json!("llava"));
    let error = inspect(&folder.dir(), false).unwrap_err().to_string();
    assert!(error.contains("`llava` checkpoint"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = inspect(empty.path(), true).unwrap_err().to_string();
    assert!(error.contains("no config.json"), "{error}");
}

#[test]
fn random_weights_are_as_wide_as_the_configuration_says() {
    let folder = Folder::new();
    let spread = |range: f64| {
        folder.edit("config.json", "/initializer_range", json!(range));
        let model =
            HubModel::random(&folder.dir(), Default::default(), 1, &Device::flex()).unwrap();
        let to = folder.beside(&format!("random-{range}"));
        dcsft_vlm::model::VisionLanguageModel::save(&model, &to).unwrap();
        let tensors = read(&to.join("model.safetensors"));
        let bytes = &tensors["model.embed_tokens.weight"].bytes;
        let values = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&word| f32::from_le_bytes(word));
        let squares: f32 = values.map(|value| value * value).sum();
        (squares / (bytes.len() / 4) as f32).sqrt()
    };
    let (narrow, wide) = (spread(0.02), spread(0.1));
    assert!(
        (narrow - 0.02).abs() < 1e-3 && (wide - 0.1).abs() < 5e-3,
        "{narrow} {wide}"
    );
}

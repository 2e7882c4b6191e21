//! Adapters in PEFT's layout.

use burn::tensor::Device;
use dcsft_models::HubModel;
use dcsft_vlm::model::VisionLanguageModel as _;
use serde_json::{Value, json};

use crate::made::{Folder, Stored, Tensors, ask, is_close};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// A module with an adapter, called as in Transformers.
const MODULE: &str = "model.language_model.layers.1.mlp.up_proj";

fn set(folder: &Folder, name: &str, value: Value) {
    folder.edit(CONFIG, &format!("/{name}"), value);
}

/// Every module that has an adapter.
const ALL: &str = r"^(model\.language_model\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.\w+_proj)|model\.visual\.(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.\w+_proj)|merger\.mlp\.(0|2)))$";

/// What is done to a folder.
type Change = fn(&Folder);

#[test]
fn an_adapter_acts_and_forms_of_it_act_alike() {
    let base = Folder::new().answer().unwrap();
    let plain = Folder::with_adapter().answer().unwrap();
    assert!(!is_close(&base, &plain), "the adapter does nothing");
    let same: &[(&str, Change)] = &[
        ("huggingface/peft#2699", |folder| {
            folder.rename(WEIGHTS, |name| {
                name.replace("model.model.language_model.", "model.model.")
                    .replace("model.model.visual.", "model.visual.")
            });
        }),
        ("huggingface/peft#2566", |folder| {
            folder.rename(WEIGHTS, |name| name.replace(".weight", ".default.weight"));
        }),
        ("a pattern of modules", |folder| {
            set(folder, "target_modules", json!(ALL))
        }),
        ("a pattern as ms-swift writes it", |folder| {
            let pattern = r"^((?!lm_head|embed|patch_embed).)*\.(\w+_proj|qkv|proj|0|2)$";
            set(folder, "target_modules", json!(pattern));
        }),
        ("a pattern of the time before Transformers 4.52", |folder| {
            let pattern = ALL
                .replace(r"model\.language_model\.", r"model\.")
                .replace(r"model\.visual\.", r"visual\.");
            set(folder, "target_modules", json!(pattern));
        }),
        ("all linear layers", |folder| {
            set(folder, "target_modules", json!("all-linear"))
        }),
        ("a list of endings", |folder| {
            let list = json!([
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
                "qkv",
                "attn.proj",
                "mlp.0",
                "mlp.2"
            ]);
            set(folder, "target_modules", list);
        }),
        ("all layers by number", |folder| {
            set(folder, "target_modules", json!(ALL_NAMES));
            set(folder, "layers_to_transform", json!([0, 1, 2]));
        }),
        ("layers of a named list", |folder| {
            set(folder, "target_modules", json!(DECODER_ENDINGS));
            set(folder, "layers_to_transform", json!([0, 1]));
            set(folder, "layers_pattern", json!("layers"));
            keep(folder, |module| module.contains("language_model"));
        }),
        ("modules that are left out again", |folder| {
            set(folder, "target_modules", json!("all-linear"));
            set(folder, "exclude_modules", json!(["no_such_module"]));
        }),
        ("fields of other methods at their defaults", |folder| {
            for (name, value) in [
                ("bias", json!("none")),
                ("loftq_config", json!({})),
                ("megatron_core", json!("megatron.core")),
                ("modules_to_save", json!([])),
                ("peft_version", json!("0.21.2")),
                ("qalora_group_size", json!(16)),
                ("rank_pattern", json!({})),
                ("a_field_of_tomorrow", json!(false)),
            ] {
                set(folder, name, value);
            }
        }),
    ];
    for (source, change) in same {
        let folder = Folder::with_adapter();
        change(&folder);
        let answer = folder
            .answer()
            .unwrap_or_else(|error| panic!("{source}: {error}"));
        let expected = match *source {
            "layers of a named list" => {
                let folder = Folder::with_adapter();
                keep(&folder, |module| module.contains("language_model"));
                set(&folder, "target_modules", json!(DECODER_PATTERN));
                folder.answer().unwrap()
            }
            _ => plain.clone(),
        };
        assert!(
            is_close(&answer, &expected),
            "{source}: {answer:?} and not {expected:?}"
        );
    }
}

const DECODER_ENDINGS: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];
const DECODER_PATTERN: &str = r"model\.language_model\.layers\.\d+\..*_proj";
/// The merger's layers are in no list of layers: they are meant by their whole names alone.
const ALL_NAMES: [&str; 11] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "qkv",
    "attn.proj",
    "model.visual.merger.mlp.0",
    "model.visual.merger.mlp.2",
];

/// Leaves tensors of some modules alone.
fn keep(folder: &Folder, wanted: fn(&str) -> bool) {
    folder.tensors(WEIGHTS, |tensors| tensors.retain(|name, _| wanted(name)));
}

/// NVIDIA/TensorRT-LLM#1668, paiml/aprender#2189: the factor is alpha / sqrt(r).
#[test]
fn a_stabilised_rank_is_another_factor() {
    let (stabilised, plain) = (Folder::with_adapter(), Folder::with_adapter());
    set(&stabilised, "use_rslora", json!(true));
    set(&plain, "lora_alpha", json!(4.0 * 2f64.sqrt()));
    let (a, b) = (stabilised.answer().unwrap(), plain.answer().unwrap());
    assert!(is_close(&a, &b), "{a:?} and {b:?}");
    assert!(!is_close(&a, &Folder::with_adapter().answer().unwrap()));
}

/// A module may have an alpha or a rank of its own; a column more of zeros changes nothing.
#[test]
fn patterns_give_modules_ranks_and_factors_of_their_own() {
    let names = ["A", "B"].map(|letter| format!("base_model.model.{MODULE}.lora_{letter}.weight"));
    let reference = Folder::with_adapter();
    reference.tensors(WEIGHTS, |tensors| {
        let b = tensors[&names[1]].scaled(3.0);
        tensors.insert(names[1].clone(), b);
    });
    let expected = reference.answer().unwrap();

    let alphas = Folder::with_adapter();
    set(
        &alphas,
        "alpha_pattern",
        json!({"layers.1.mlp.up_proj": 12.0}),
    );
    assert!(is_close(&alphas.answer().unwrap(), &expected));

    let ranks = Folder::with_adapter();
    let wider = |tensors: &mut Tensors| {
        let zeros = |tensor: &Stored, shape: [usize; 2], bytes: Vec<u8>| Stored {
            shape: shape.to_vec(),
            bytes,
            ..tensor.clone()
        };
        let (a, b) = (tensors[&names[0]].clone(), tensors[&names[1]].clone());
        let input = a.shape[1];
        let mut bytes = a.bytes.clone();
        bytes.resize(3 * input * 4, 0);
        tensors.insert(names[0].clone(), zeros(&a, [3, input], bytes));
        let rows = b.bytes.chunks_exact(2 * 4);
        let bytes = rows
            .flat_map(|row| row.iter().copied().chain(1f32.to_le_bytes()))
            .collect();
        tensors.insert(names[1].clone(), zeros(&b, [b.shape[0], 3], bytes));
    };
    ranks.tensors(WEIGHTS, wider);
    set(&ranks, "rank_pattern", json!({".*layers.1.mlp.up_proj": 3}));
    set(&ranks, "alpha_pattern", json!({MODULE: 18.0}));
    let answer = ranks.answer().unwrap();
    assert!(
        is_close(&answer, &expected),
        "{answer:?} and not {expected:?}"
    );
    // What is written again says the same.
    let (_, dir) = ranks.import().unwrap();
    let model = HubModel::load(&dir, &Device::flex()).unwrap();
    let saved = ranks.beside("saved-again");
    model.save(&saved).unwrap();
    let again = HubModel::load(&saved, &Device::flex()).unwrap();
    assert!(is_close(&ask(&again).unwrap(), &expected));
    let mut merged = again.clone();
    merged.merge_lora().unwrap();
    assert!(is_close(&ask(&merged).unwrap(), &expected));
    // Without the pattern the shapes do not fit.
    set(&ranks, "rank_pattern", json!(null));
    let error = ranks.answer().unwrap_err();
    assert!(
        error.contains("up_proj.lora_A") && error.contains("[3, "),
        "{error}"
    );
}

#[test]
fn other_methods_are_refused_by_name_and_by_the_users_path() {
    for (source, name, value) in [
        ("huggingface/peft#2566", "use_dora", json!(true)),
        ("huggingface/peft#2566", "bias", json!("all")),
        ("huggingface/peft#2566", "bias", json!("lora_only")),
        ("huggingface/peft#2184", "init_lora_weights", json!("pissa")),
        (
            "huggingface/peft#2184",
            "init_lora_weights",
            json!("pissa_niter_16"),
        ),
        ("huggingface/peft#1929", "init_lora_weights", json!("olora")),
        (
            "huggingface/peft LoraConfig",
            "init_lora_weights",
            json!("eva"),
        ),
        (
            "huggingface/peft LoraConfig",
            "init_lora_weights",
            json!("corda"),
        ),
        (
            "huggingface/peft LoraConfig",
            "init_lora_weights",
            json!("loftq"),
        ),
        (
            "huggingface/peft LoraConfig",
            "init_lora_weights",
            json!("lora_ga"),
        ),
        (
            "huggingface/peft LoraConfig",
            "kasa_config",
            json!({"x": 1}),
        ),
        (
            "huggingface/peft LoraConfig",
            "alora_invocation_tokens",
            json!([1, 2]),
        ),
        (
            "huggingface/peft LoraConfig",
            "eva_config",
            json!({"rho": 2.0}),
        ),
        (
            "huggingface/peft LoraConfig",
            "corda_config",
            json!({"x": 1}),
        ),
        (
            "huggingface/peft LoraConfig",
            "loftq_config",
            json!({"loftq_bits": 4}),
        ),
        (
            "huggingface/peft LoraConfig",
            "lora_ga_config",
            json!({"x": 1}),
        ),
        (
            "huggingface/peft LoraConfig",
            "layer_replication",
            json!([[0, 1]]),
        ),
        ("huggingface/peft LoraConfig", "lora_bias", json!(true)),
        ("huggingface/peft LoraConfig", "use_qalora", json!(true)),
        ("huggingface/peft LoraConfig", "use_bdlora", json!(true)),
        (
            "huggingface/peft LoraConfig",
            "target_parameters",
            json!(["x"]),
        ),
        (
            "huggingface/peft LoraConfig",
            "trainable_token_indices",
            json!([1]),
        ),
        (
            "huggingface/peft LoraConfig",
            "modules_to_save",
            json!(["lm_head"]),
        ),
        ("huggingface/peft LoraConfig", "fan_in_fan_out", json!(true)),
        ("another method", "peft_type", json!("LOHA")),
        ("a method of tomorrow", "use_tomorrow", json!(true)),
        ("a method of tomorrow", "tomorrow_config", json!({"x": 1})),
        ("no rank", "r", json!(0)),
    ] {
        let folder = Folder::with_adapter();
        set(&folder, name, value.clone());
        let error = folder
            .import()
            .err()
            .unwrap_or_else(|| panic!("{source}: {name} {value}"));
        assert!(error.contains(name), "{source}: {error}");
        let path = folder.dir().join(CONFIG);
        assert!(
            error.contains(&*path.to_string_lossy()),
            "{source}: {error}"
        );
        if let Some(text) = value.as_str() {
            assert!(error.contains(text), "{source}: {error}");
        }
    }
}

#[test]
fn an_adapter_is_whole_and_on_the_modules_that_it_names() {
    let cases: &[(&str, Change, &[&str])] = &[
        (
            "found in use",
            |folder| folder.remove(CONFIG),
            &[CONFIG, WEIGHTS],
        ),
        (
            "found in use",
            |folder| folder.remove(WEIGHTS),
            &[CONFIG, WEIGHTS],
        ),
        (
            "huggingface/peft#2388",
            |folder| folder.remove("config.json"),
            &["adapter", "base checkpoint"],
        ),
        (
            "an adapter of an older PEFT",
            |folder| {
                folder.remove(WEIGHTS);
                folder.write("adapter_model.bin", "PK");
            },
            &["adapter_model.bin"],
        ),
        (
            "vllm-project/vllm#34186",
            |folder| {
                folder.rename(WEIGHTS, |name| name.replacen("base_model.model.", "", 1));
            },
            &["base_model.model.", "lora_A"],
        ),
        (
            "a module less in the list",
            |folder| {
                set(folder, "target_modules", json!(["q_proj"]));
            },
            &["target_modules", WEIGHTS],
        ),
        (
            "a module less in the file",
            |folder| {
                keep(folder, |name| !name.contains("layers.1.mlp.up_proj"));
            },
            &["target_modules", MODULE],
        ),
        (
            "a layer less",
            |folder| {
                set(folder, "target_modules", json!(DECODER_ENDINGS));
                set(folder, "layers_to_transform", json!([0]));
                set(folder, "layers_pattern", json!("layers"));
                keep(folder, |module| module.contains("language_model"));
            },
            &["target_modules", "layers.1"],
        ),
        (
            "a module that is left out",
            |folder| {
                set(
                    folder,
                    "exclude_modules",
                    json!("model.language_model.layers.1.mlp.up_proj"),
                );
            },
            &["target_modules", MODULE],
        ),
        (
            "no list of modules",
            |folder| set(folder, "target_modules", json!(null)),
            &["target_modules"],
        ),
        (
            "half an adapter",
            |folder| {
                keep(folder, |name| !name.contains("layers.1.mlp.up_proj.lora_B"));
            },
            &[MODULE, "one factor"],
        ),
        (
            "an adapter of another model",
            |folder| {
                folder.rename(WEIGHTS, |name| name.replace("layers.1.", "layers.7."));
            },
            &["layers.7"],
        ),
        (
            "another rank",
            |folder| set(folder, "r", json!(4)),
            &["lora_A", "[2, "],
        ),
        (
            "the magnitudes of another method",
            |folder| {
                folder.tensors(WEIGHTS, |tensors| {
                    let vector = tensors.values().next().unwrap().clone();
                    tensors.insert(
                        format!("base_model.model.{MODULE}.lora_magnitude_vector"),
                        vector,
                    );
                });
            },
            &["lora_magnitude_vector"],
        ),
        (
            "factors that are no numbers",
            |folder| {
                folder.tensors(WEIGHTS, |tensors| {
                    let tensor = tensors.values_mut().next().unwrap();
                    tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
                });
            },
            &[WEIGHTS, "NaN"],
        ),
    ];
    for (source, change, parts) in cases {
        let folder = Folder::with_adapter();
        change(&folder);
        let error = folder
            .import()
            .err()
            .unwrap_or_else(|| panic!("{source}: taken"));
        for part in *parts {
            assert!(error.contains(part), "{source}: {error}");
        }
    }
}

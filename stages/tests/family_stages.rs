//! Families beside Qwen2.5-VL in the stages: imported by the `model_type` of their files, trained, asked, evaluated,
//! exported, on the golden checkpoints. No stage is told which family it has.

mod common;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_engine::stage::{ArtifactType, Input};
use dcsft_stages::export::{Format, export};
use serde_json::{Value, json};
use support::conversations::{Conversations, conversations};
use support::{Bench, input};

/// The set's folder, or none where there is none on this machine.
fn set(variable: &str, folder: &str) -> Option<PathBuf> {
    match std::env::var_os(variable) {
        Some(named) => Some(PathBuf::from(named)),
        None => common::shared(folder),
    }
}

/// The set's images; the answers take turns.
fn pictures(bench: &mut Bench, set: &Path) -> Input {
    let mut images: Vec<PathBuf> = std::fs::read_dir(set.join("images"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    images.sort();
    let answers = ["cat", "dog"];
    let record = |(index, image): (usize, &PathBuf)| json!({"problem": "What is it?", "solution": answers[index % 2], "image": image});
    let records: Vec<Value> = images.iter().take(6).enumerate().map(record).collect();
    let list = bench.folder().join("list.json");
    std::fs::write(&list, Value::from(records).to_string()).unwrap();
    let run = bench.run("dataset", json!({"path": list, "set": "pictures"}), &[]);
    assert_eq!(run.summary()["kept"], 6);
    input("data", &run.output("data"))
}

fn wired(model: &Input, data: &Input) -> [(&'static str, Vec<Input>); 2] {
    [("model", vec![model.clone()]), ("data", vec![data.clone()])]
}

/// Shape and bytes of all tensors.
fn weights(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.tensors().into_iter();
    tensors
        .map(|(name, tensor)| (name, tensor.data().to_vec()))
        .collect()
}

/// A study from the checkpoint to the export; `vision` tells the tower's weights by name.
fn study(set: &Path, kind: &str, vision: fn(&str) -> bool) {
    let mut bench = Bench::new();
    let data = pictures(&mut bench, set);
    let params = |kind: &str| json!({"kind": kind, "path": set.join("ckpt")});
    let model = bench.run("model", params("auto"), &[]);
    model.summary();
    let named = bench.run("model", params(kind), &[]);
    assert_eq!(model.files(), named.files(), "`auto` finds the family");
    let model = input("model", &model.output("model"));

    let sft = json!({"steps": 2, "batch_size": 2, "learning_rate": 1e-3, "freeze": ["vision"]});
    let tuned = bench.run("sft", sft, &wired(&model, &data));
    tuned.summary();
    let (before, after) = (weights(&model.dir), weights(&tuned.output("model")));
    assert!(before.keys().eq(after.keys()));
    for (name, bytes) in &before {
        let frozen = vision(name);
        assert_eq!(after[name] == *bytes, frozen, "{name}");
    }

    let lora = json!({"rank": 2, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "targets": ["decoder"]});
    let params = json!({"steps": 1, "prompts_per_step": 2, "generations": 2, "max_new_tokens": 3,
                        "learning_rate": 1e-3, "lora": lora});
    let grpo = bench.run("grpo", params, &wired(&model, &data));
    assert_eq!(grpo.summary()["steps"], 1);
    let adapted = grpo.output("model");
    let text = std::fs::read(adapted.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    for module in config["target_modules"].as_array().unwrap() {
        let module = module.as_str().unwrap();
        assert!(
            module.ends_with("q_proj") || module.ends_with("v_proj"),
            "{module}"
        );
        assert!(!vision(module), "{module}");
    }

    let rollout = json!({"n": 2, "max_new_tokens": 3});
    let adapted = input("model", &adapted);
    let run = bench.run("rollout", rollout, &wired(&adapted, &data));
    assert_eq!(run.summary()["answers"], 12);
    let merged = bench.folder().join("merged");
    export(
        ArtifactType::Model,
        &adapted.dir,
        &merged,
        Some(Format::Merged),
        None,
    )
    .unwrap();
    assert!(weights(&merged).keys().eq(before.keys()));
    let again = bench.run("model", json!({"kind": "auto", "path": merged}), &[]);
    let again = input("model", &again.output("model"));
    let answers = |bench: &mut Bench, model: &Input| {
        let run = bench.run("eval", json!({"max_new_tokens": 3}), &wired(model, &data));
        run.summary();
        std::fs::read(run.output("evaluation").join("answers.jsonl")).unwrap()
    };
    assert_eq!(answers(&mut bench, &again), answers(&mut bench, &adapted));
}

/// The set's conversations: turns of text alone, a system message, several images.
fn talk(set: &Path) {
    let facts = common::read_json(&set.join("sft/sft.json"));
    let numbers = |name: &str| facts[name].as_array().unwrap();
    let labels = numbers("label_tokens_per_sample");
    let value = |value: &Value| value.as_f64().unwrap();
    let losses = numbers("loss_per_sample").iter().map(value);
    let sum: f64 = losses
        .zip(labels.iter().map(value))
        .map(|(loss, tokens)| loss * tokens)
        .sum();
    let given = Conversations {
        root: set,
        samples: numbers("samples"),
        loss: sum / labels.iter().map(value).sum::<f64>(),
        labels,
    };
    conversations(json!({"kind": "auto", "path": set.join("ckpt")}), &given);
}

#[test]
fn golden_smolvlm_stages() {
    let Some(set) = set("DCSFT_GOLDEN_SMOLVLM", "golden-smolvlm") else {
        return;
    };
    study(&set, "smolvlm", |name| {
        name.starts_with("model.vision_model.")
    });
}

#[test]
fn golden_qwen3_vl_stages() {
    let Some(set) = set("DCSFT_GOLDEN_QWEN3_VL", "golden-qwen3-vl") else {
        return;
    };
    let vision = |name: &str| name.starts_with("model.visual.") && !name.contains("merger");
    study(&set, "qwen3_vl", vision);
}

#[test]
fn golden_smolvlm_conversations_are_trained_as_the_reference_trains_them() {
    if let Some(set) = set("DCSFT_GOLDEN_SMOLVLM", "golden-smolvlm") {
        talk(&set);
    }
}

#[test]
fn golden_qwen3_vl_conversations_are_trained_as_the_reference_trains_them() {
    if let Some(set) = set("DCSFT_GOLDEN_QWEN3_VL", "golden-qwen3-vl") {
        talk(&set);
    }
}

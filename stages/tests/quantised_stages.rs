//! A quantised base in the stages: what params it has, what is trained beside it, and what is exported of it.

mod common;
mod support;

use std::path::{Path, PathBuf};

use common::{golden, shared};
use dcsft_engine::stage::{ArtifactType, Input};
use dcsft_stages::export::{Format, export};
use serde_json::{Value, json};
use support::{Bench, input, json_lines};

/// Words that the samples have as answers.
const ANSWERS: [&str; 2] = ["cat", "dog"];

fn with(base: Value, more: Value) -> Value {
    let mut merged = base;
    let more = more.as_object().unwrap().clone();
    merged.as_object_mut().unwrap().extend(more);
    merged
}

fn model_params(checkpoint: &Path) -> Value {
    json!({"kind": "auto", "path": checkpoint})
}

/// The resolved params of a `model` stage, or the field and the words of its first mistake.
fn resolved(params: &Value) -> Result<Value, (String, String)> {
    let registry = dcsft_stages::registry();
    let kind = registry.get("model").unwrap();
    match kind.resolve(params, Path::new("")) {
        Ok(resolved) => Ok(resolved.params.value()),
        Err(problems) => {
            let first = &problems[0];
            Err((first.path.join("."), first.message.clone()))
        }
    }
}

#[test]
fn golden_a_model_that_is_not_quantised_has_the_params_that_it_had() {
    let Some(checkpoint) = golden("ckpt") else {
        return;
    };
    let params = |more| resolved(&with(model_params(&checkpoint), more)).unwrap();
    let before = params(json!({}));
    let expected = json!({
        "kind": "auto", "path": checkpoint, "init": "checkpoint", "seed": 0, "precision": "f32",
        "min_pixels": null, "max_pixels": null, "max_tokens": null,
    });
    assert_eq!(before, expected);
    assert_eq!(params(json!({"quantize": "none"})), before);
    for quantize in ["8bit", "4bit"] {
        let mut expected = expected.clone();
        expected["quantize"] = quantize.into();
        assert_eq!(params(json!({"quantize": quantize})), expected);
    }
}

#[test]
fn what_cannot_be_quantised_is_said_before_anything_runs() {
    let problem = |params: Value| resolved(&params).unwrap_err();
    let (field, message) = problem(json!({"kind": "micro", "quantize": "8bit"}));
    assert_eq!(field, "quantize");
    assert!(message.contains("checkpoints"), "{message}");
    let (_, message) = problem(json!({"kind": "auto", "path": "x", "quantize": "nf4"}));
    assert!(
        message.contains("nf4") && message.contains("4bit"),
        "{message}"
    );
    // Layers of 104 and 60, of which neither is whole blocks.
    let Some(checkpoint) = shared("golden-smolvlm/ckpt") else {
        return;
    };
    let (field, message) = problem(with(model_params(&checkpoint), json!({"quantize": "8bit"})));
    assert_eq!(field, "quantize");
    for word in ["quantize: 8bit", "multiple of 32", "leave `quantize` out"] {
        assert!(message.contains(word), "{message}");
    }
}

/// The golden images as a set; the answers take turns.
fn pictures(bench: &mut Bench) -> Option<Input> {
    let folder = golden("images")?;
    let mut images: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    images.sort();
    let record = |(index, image): (usize, &PathBuf)| json!({"problem": "What is it?", "solution": ANSWERS[index % ANSWERS.len()], "image": image});
    let records: Vec<Value> = images.iter().enumerate().map(record).collect();
    let list = bench.folder().join("list.json");
    std::fs::write(&list, Value::from(records).to_string()).unwrap();
    let run = bench.run("dataset", json!({"path": list, "set": "pictures"}), &[]);
    run.summary();
    Some(input("data", &run.output("data")))
}

fn quantised(bench: &mut Bench, checkpoint: &Path, more: Value) -> Input {
    let run = bench.run("model", with(model_params(checkpoint), more), &[]);
    run.summary();
    input("model", &run.output("model"))
}

fn inputs(model: &Input, data: &Input) -> [(&'static str, Vec<Input>); 2] {
    [("model", vec![model.clone()]), ("data", vec![data.clone()])]
}

fn lora(rank: usize) -> Value {
    json!({"lora": {"rank": rank, "alpha": 8, "dropout": 0.1, "targets": ["vision", "projector", "decoder"]}})
}

fn sft() -> Value {
    json!({"steps": 4, "batch_size": 4, "learning_rate": 4e-3})
}

fn grpo() -> Value {
    json!({"steps": 2, "prompts_per_step": 2, "generations": 2, "max_new_tokens": 4, "learning_rate": 1e-3, "beta": 0.1})
}

fn answers(bench: &mut Bench, model: &Input, data: &Input) -> Vec<u8> {
    let run = bench.run("eval", json!({"max_new_tokens": 6}), &inputs(model, data));
    run.summary();
    std::fs::read(run.output("evaluation").join("answers.jsonl")).unwrap()
}

fn file(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap()
}

#[test]
fn golden_adapters_are_trained_exported_and_trained_further() {
    let mut bench = Bench::new();
    let (Some(checkpoint), Some(data)) = (golden("ckpt"), pictures(&mut bench)) else {
        return;
    };
    let base = quantised(&mut bench, &checkpoint, json!({"quantize": "4bit"}));
    let settings: Value = serde_json::from_slice(&file(&base.dir, "dcsft.json")).unwrap();
    assert_eq!(settings["quantize"], "4bit");
    assert_eq!(
        file(&base.dir, "model.safetensors"),
        file(&checkpoint, "model.safetensors")
    );

    let cold = bench.run("sft", with(sft(), lora(4)), &inputs(&base, &data));
    let losses: Vec<f64> = json_lines(&cold.output("log").join("loss.jsonl"))
        .iter()
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    assert!(losses[3] < losses[0], "{losses:?}");
    let again = bench.run("sft", with(sft(), lora(4)), &inputs(&base, &data));
    assert_eq!(cold.files(), again.files());
    let trained = input("sft", &cold.output("model"));
    let settings: Value = serde_json::from_slice(&file(&trained.dir, "dcsft.json")).unwrap();
    assert_eq!(settings["quantize"], "4bit", "it passes on");
    assert_ne!(
        answers(&mut bench, &trained, &data),
        answers(&mut bench, &base, &data)
    );

    // The same adapters go on, and the reference has them as they were.
    let run = bench.run("grpo", with(grpo(), lora(4)), &inputs(&trained, &data));
    assert_eq!(run.summary()["steps"], 2);
    let records = json_lines(&run.output("log").join("grpo.jsonl"));
    let kl = records[0]["kl"].as_f64().unwrap();
    // The policy is the reference before the first update but for the dropout of its adapters.
    assert!(kl.abs() < 0.05, "{kl}");
    assert_ne!(
        file(&run.output("model"), "adapter_model.safetensors"),
        file(&trained.dir, "adapter_model.safetensors")
    );
    let other = bench.run("grpo", with(grpo(), lora(8)), &inputs(&trained, &data));
    assert!(
        other.failure().contains("lora.rank is 8"),
        "{}",
        other.failure()
    );

    // A merged export has the checkpoint's own weights with the adapters, whole.
    let merged = bench.folder().join("merged");
    let written = export(ArtifactType::Model, &trained.dir, &merged, None, None).unwrap();
    assert_eq!(written.format, Format::Merged);
    assert!(!merged.join("dcsft.json").exists() && !merged.join("adapter_config.json").exists());
    let sizes = [&merged, &checkpoint].map(|dir| file(dir, "model.safetensors").len());
    assert!(sizes[0].abs_diff(sizes[1]) < 4096, "{sizes:?}");
    assert_ne!(
        file(&merged, "model.safetensors"),
        file(&checkpoint, "model.safetensors")
    );
    let whole = quantised(&mut bench, &merged, json!({}));
    assert!(!answers(&mut bench, &whole, &data).is_empty());
}

#[test]
fn golden_the_weights_of_a_quantised_model_are_not_trained() {
    let mut bench = Bench::new();
    let (Some(checkpoint), Some(data)) = (golden("ckpt"), pictures(&mut bench)) else {
        return;
    };
    let base = quantised(&mut bench, &checkpoint, json!({"quantize": "8bit"}));
    for (kind, params) in [("sft", sft()), ("grpo", grpo())] {
        let failed = bench.run(kind, params, &inputs(&base, &data)).failure();
        for word in ["quantised", "`lora:`", "`quantize`"] {
            assert!(failed.contains(word), "{kind}: {failed}");
        }
    }
}

#[test]
fn golden_random_weights_are_written_as_they_are_drawn() {
    let mut bench = Bench::new();
    let (Some(checkpoint), Some(data)) = (golden("ckpt"), pictures(&mut bench)) else {
        return;
    };
    let random = json!({"init": "random", "seed": 3});
    let whole = quantised(&mut bench, &checkpoint, random.clone());
    let eight = quantised(
        &mut bench,
        &checkpoint,
        with(random, json!({"quantize": "8bit"})),
    );
    let weights = |model: &Input| file(&model.dir, "model.safetensors");
    assert_eq!(weights(&whole), weights(&eight));
    assert!(!answers(&mut bench, &eight, &data).is_empty());
}

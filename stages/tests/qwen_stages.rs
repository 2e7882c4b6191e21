//! Qwen2.5-VL in the stages: imported, trained, asked, evaluated, exported, on the golden checkpoint.

mod common;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::golden;
use dcsft_engine::stage::{ArtifactType, Cost, Input, Relative, StageError};
use dcsft_stages::data::Dataset;
use dcsft_stages::export::{ExportError, Format, export};
use serde_json::{Value, json};
use support::conversations::{Conversations, conversations};
use support::{Bench, How, input, json_lines, on_threads};

/// Words that the samples have as answers.
const ANSWERS: [&str; 2] = ["cat", "dog"];

fn model_params(checkpoint: &Path) -> Value {
    json!({"kind": "qwen2_5_vl", "path": checkpoint})
}

fn with(base: Value, more: Value) -> Value {
    let mut merged = base;
    let more = more.as_object().unwrap().clone();
    merged.as_object_mut().unwrap().extend(more);
    merged
}

/// The golden checkpoint as the stage `model` takes it over.
fn imported(bench: &mut Bench, checkpoint: &Path) -> Input {
    let run = bench.run("model", model_params(checkpoint), &[]);
    run.summary();
    input("model", &run.output("model"))
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
    assert_eq!(run.summary()["kept"], images.len());
    Some(input("data", &run.output("data")))
}

/// Checkpoint, model and set, or none without the golden set.
fn study(bench: &mut Bench) -> Option<(PathBuf, Input, Input)> {
    let checkpoint = golden("ckpt")?;
    let data = pictures(bench)?;
    let model = imported(bench, &checkpoint);
    Some((checkpoint, model, data))
}

fn inputs(model: &Input, data: &Input) -> [(&'static str, Vec<Input>); 2] {
    [("model", vec![model.clone()]), ("data", vec![data.clone()])]
}

fn sft(steps: usize) -> Value {
    json!({"steps": steps, "save_steps": 2, "batch_size": 2, "gradient_accumulation": 2, "learning_rate": 2e-3})
}

fn lora() -> Value {
    json!({"lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["vision", "projector", "decoder"]}})
}

fn answers(bench: &mut Bench, model: &Input, data: &Input) -> Vec<u8> {
    let run = bench.run("eval", json!({"max_new_tokens": 6}), &inputs(model, data));
    run.summary();
    std::fs::read(run.output("evaluation").join("answers.jsonl")).unwrap()
}

#[test]
fn golden_an_import_is_the_checkpoint_and_its_settings() {
    let mut bench = Bench::new();
    let Some(checkpoint) = golden("ckpt") else {
        return;
    };
    let params = with(
        model_params(&checkpoint),
        json!({"precision": "f32", "min_pixels": 4000, "max_pixels": 9000, "max_tokens": 99}),
    );
    let run = bench.run("model", params, &[]);
    let weights = std::fs::read(checkpoint.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let numbers: usize = tensors
        .tensors()
        .iter()
        .map(|(_, tensor)| tensor.shape().iter().product::<usize>())
        .sum();
    assert_eq!(run.summary()["parameters"], numbers);
    let file = |name: &str| std::fs::read(run.output("model").join(name)).unwrap();
    assert_eq!(file("model.safetensors"), weights);
    let tokenizer = std::fs::read(checkpoint.join("tokenizer.json")).unwrap();
    assert_eq!(file("tokenizer.json"), tokenizer);
    let settings: Value = serde_json::from_slice(&file("dcsft.json")).unwrap();
    assert_eq!(settings["max_pixels"], 9000);
    assert_eq!(settings["max_tokens"], 99);
}

#[test]
fn golden_random_weights_are_a_function_of_the_shape_and_the_seed() {
    let mut bench = Bench::new();
    let Some((checkpoint, _, data)) = study(&mut bench) else {
        return;
    };
    let mut drawn = |seed: u64| {
        let params = with(
            model_params(&checkpoint),
            json!({"init": "random", "seed": seed}),
        );
        bench.run("model", params, &[])
    };
    let (first, again, other) = (drawn(1), drawn(1), drawn(2));
    assert_eq!(first.files(), again.files());
    assert_ne!(first.files(), other.files());
    let model = input("model", &first.output("model"));
    assert!(!answers(&mut bench, &model, &data).is_empty());
}

#[test]
fn golden_files_of_the_checkpoint_are_its_identity() {
    let Some(checkpoint) = golden("ckpt") else {
        return;
    };
    let registry = dcsft_stages::registry();
    let files = |more: Value| {
        let params = with(model_params(&checkpoint), more);
        let resolved = registry
            .get("model")
            .unwrap()
            .resolve(&params, Path::new(""))
            .unwrap();
        let [param] = <[_; 1]>::try_from(resolved.files).unwrap();
        assert_eq!(
            (param.field.to_string().as_str(), param.required),
            ("path", true)
        );
        param
            .files
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    let mut on_disk: Vec<String> = std::fs::read_dir(&checkpoint)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    on_disk.sort();
    assert_eq!(files(json!({})), on_disk);
    let random = files(json!({"init": "random", "seed": 3}));
    assert!(random.contains(&"config.json".to_owned()));
    assert!(
        !random.contains(&"model.safetensors".to_owned()),
        "weights that are not read do not matter"
    );
}

#[test]
fn params_of_the_other_kind_and_missing_ones_are_named() {
    let registry = dcsft_stages::registry();
    let model = registry.get("model").unwrap();
    let problems = |with: Value| -> BTreeMap<String, String> {
        let found = model.resolve(&with, Path::new("")).unwrap_err();
        found
            .into_iter()
            .map(|problem| (problem.path.join("."), problem.message))
            .collect()
    };
    let found = problems(json!({"kind": "micro", "path": "folder", "max_pixels": 100}));
    assert_eq!(found.keys().collect::<Vec<_>>(), ["max_pixels", "path"]);
    assert!(found["path"].contains("`kind: auto`"), "{found:?}");
    let found = problems(json!({"kind": "qwen2_5_vl", "image_size": 16, "seed": 3}));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        ["image_size", "path", "seed"]
    );
    assert!(found["image_size"].contains("`kind: micro`"), "{found:?}");
    assert!(found["seed"].contains("init: random"), "{found:?}");
    let found =
        problems(json!({"kind": "qwen2_5_vl", "path": "x", "min_pixels": 9, "max_pixels": 8}));
    assert!(found["min_pixels"].contains("above"), "{found:?}");
    let empty = tempfile::tempdir().unwrap();
    let found = problems(json!({"kind": "qwen2_5_vl", "path": empty.path()}));
    assert!(found["path"].contains("config.json"), "{found:?}");
}

#[test]
fn micro_params_are_what_they_were() {
    let registry = dcsft_stages::registry();
    let model = registry.get("model").unwrap();
    let resolved = model.resolve(&json!({}), Path::new("")).unwrap();
    let blocks = json!({"width": 48, "layers": 2, "heads": 4, "mlp_ratio": 2});
    let expected = json!({
        "kind": "micro", "seed": 0, "image_size": 16, "patch_size": 4, "vision": blocks, "decoder": blocks,
        "max_text_tokens": 11, "words": ["caption", "scene?", "object?", "on"],
        "characters": "abcdefghijklmnopqrstuvwxyz",
    });
    assert_eq!(resolved.params.value(), expected);
}

#[test]
fn golden_interrupted_training_ends_with_the_same_bytes() {
    for more in [json!({}), lora(), json!({"gradient_checkpointing": true})] {
        let mut bench = Bench::new();
        let Some((_, model, data)) = study(&mut bench) else {
            return;
        };
        let params = with(sft(4), more);
        let straight = bench.run("sft", params.clone(), &inputs(&model, &data));
        straight.summary();
        let state = bench.folder();
        for tried in 0..2 {
            let how = How {
                interrupt_after: Some(1),
                state: Some(state.clone()),
                ..How::default()
            };
            let run = bench.run_as("sft", params.clone(), &inputs(&model, &data), how);
            assert!(
                matches!(run.result, Err(StageError::Interrupted)),
                "try {tried}: {:?}",
                run.result
            );
        }
        let how = How {
            interrupt_after: None,
            state: Some(state),
            ..How::default()
        };
        let resumed = bench.run_as("sft", params, &inputs(&model, &data), how);
        resumed.summary();
        assert_eq!(resumed.files(), straight.files());
    }
}

#[test]
fn golden_lent_answers_are_those_that_would_be_drawn() {
    let mut bench = Bench::new();
    let Some((_, model, data)) = study(&mut bench) else {
        return;
    };
    let params = |n: u32| json!({"n": n, "max_new_tokens": 6, "seed": 3});
    let inputs = inputs(&model, &data);
    let two = bench.run("rollout", params(2), &inputs);
    two.summary();
    let fresh = bench.run("rollout", params(5), &inputs);
    fresh.summary();
    let lender = Relative {
        label: "earlier".into(),
        cost: Cost {
            seconds: 1.0,
            cpu_seconds: None,
        },
        outputs: [("rollouts".to_owned(), two.output("rollouts"))].into(),
    };
    let how = How {
        relatives: vec![lender],
        ..How::default()
    };
    let lent = bench.run_as("rollout", params(5), &inputs, how);
    assert_eq!(lent.files(), fresh.files());
    // A sum of parts, one for each answer.
    let saved = lent.saved_seconds;
    assert!((saved - 1.0).abs() < 1e-9, "{saved}");
}

#[test]
fn golden_threads_change_no_byte() {
    let run = |threads| {
        on_threads(threads, || {
            let mut bench = Bench::new();
            let (_, model, data) = study(&mut bench)?;
            let run = bench.run("sft", with(sft(2), lora()), &inputs(&model, &data));
            run.summary();
            Some(run.files())
        })
    };
    assert_eq!(run(1), run(2));
}

#[cfg(unix)]
#[test]
fn golden_checkpoints_of_adapters_share_the_base() {
    use std::os::unix::fs::MetadataExt as _;
    let mut bench = Bench::new();
    let Some((_, model, data)) = study(&mut bench) else {
        return;
    };
    let run = bench.run("sft", with(sft(4), lora()), &inputs(&model, &data));
    run.summary();
    let inode = |dir: &Path| {
        std::fs::metadata(dir.join("model.safetensors"))
            .unwrap()
            .ino()
    };
    for output in ["step-2", "step-4", "model"] {
        assert_eq!(inode(&run.output(output)), inode(&model.dir), "{output}");
        assert!(
            run.output(output)
                .join("adapter_model.safetensors")
                .exists()
        );
    }
}

#[test]
fn golden_the_whole_study_runs() {
    let mut bench = Bench::new();
    let Some((_, model, data)) = study(&mut bench) else {
        return;
    };
    let samples = Dataset::open(&data.dir).unwrap().len();

    let cold = bench.run("sft", sft(4), &inputs(&model, &data));
    assert_eq!(cold.summary()["samples"], samples);
    let losses: Vec<f64> = json_lines(&cold.output("log").join("loss.jsonl"))
        .iter()
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    assert!(losses[3] < losses[0], "{losses:?}");
    let cold = input("cold_start", &cold.output("step-4"));

    let params = json!({"n": 2, "max_new_tokens": 4, "top_k": 50, "repetition_penalty": 1.05});
    let rollouts = bench.run("rollout", params, &inputs(&cold, &data));
    assert_eq!(rollouts.summary()["answers"], 2 * samples);
    let rollouts = input("rollouts", &rollouts.output("rollouts"));

    let quantiles = json!({"quantiles": {"edges": [0.5], "names": ["low", "high"]}});
    let wired = [("rollouts", vec![rollouts]), ("data", vec![data.clone()])];
    let bins = bench.run("difficulty", quantiles, &wired);
    bins.summary();
    let half = input("high", &bins.output("high"));
    assert_eq!(
        Dataset::open(&half.dir).unwrap().len(),
        samples - samples / 2
    );

    let arm = bench.run("sft", with(sft(2), lora()), &inputs(&cold, &half));
    arm.summary();
    let params = json!({"steps": 2, "prompts_per_step": 2, "generations": 2, "max_new_tokens": 4,
                        "learning_rate": 1e-3, "forward_batch": 2});
    let scored = [
        ("model", vec![cold.clone()]),
        ("data", vec![half]),
        ("difficulty", vec![input("scores", &bins.output("scores"))]),
    ];
    let grpo = bench.run("grpo", with(params, lora()), &scored);
    assert_eq!(grpo.summary()["steps"], 2);

    for trained in [arm.output("model"), grpo.output("model")] {
        let run = bench.run(
            "eval",
            json!({"max_new_tokens": 4}),
            &inputs(&input("model", &trained), &data),
        );
        assert_eq!(run.summary()["results"][0]["n"], samples);
    }
}

#[test]
fn golden_a_sample_beyond_the_token_budget_is_left_out_with_its_reason() {
    let mut bench = Bench::new();
    let Some((checkpoint, _, data)) = study(&mut bench) else {
        return;
    };
    let mut dropped = |tokens: usize| {
        let params = with(model_params(&checkpoint), json!({"max_tokens": tokens}));
        let model = bench.run("model", params, &[]);
        let model = input("model", &model.output("model"));
        bench.run("sft", sft(2), &inputs(&model, &data))
    };
    let failed = dropped(3).failure();
    assert!(failed.contains("too_long"), "{failed}");
    assert_eq!(dropped(100_000).summary()["left_out"]["count"], 0);
}

#[test]
fn golden_a_merged_export_answers_as_the_adapters_do() {
    let mut bench = Bench::new();
    let Some((_, model, data)) = study(&mut bench) else {
        return;
    };
    let run = bench.run("sft", with(sft(4), lora()), &inputs(&model, &data));
    run.summary();
    let trained = input("sft", &run.output("model"));
    let merged = bench.folder().join("merged");
    let written = export(ArtifactType::Model, &trained.dir, &merged, None, None).unwrap();
    assert_eq!(written.format, Format::Merged);
    assert!(!merged.join("adapter_config.json").exists());
    assert!(
        !merged.join("dcsft.json").exists(),
        "a setting of this program's own"
    );
    for entry in std::fs::read_dir(&merged).unwrap() {
        let entry = entry.unwrap();
        let fixed = entry.metadata().unwrap().permissions().readonly();
        assert!(
            !fixed,
            "{:?} can be changed, unlike the cache's files",
            entry.file_name()
        );
    }
    let again = imported(&mut bench, &merged);
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert_ne!(weights(&merged), weights(&model.dir));
    assert_eq!(
        answers(&mut bench, &again, &data),
        answers(&mut bench, &trained, &data)
    );

    let adapter = bench.folder().join("adapter");
    export(
        ArtifactType::Model,
        &trained.dir,
        &adapter,
        Some(Format::Adapter),
        Some("some/base"),
    )
    .unwrap();
    let read = |dir: &Path| -> serde_json::Value {
        let text = std::fs::read(dir.join("adapter_config.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let (mut kept, named) = (read(&trained.dir), read(&adapter));
    kept["base_model_name_or_path"] = "some/base".into();
    assert_eq!(named, kept);
    let mut names: Vec<_> = std::fs::read_dir(&adapter)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
}

#[test]
fn golden_a_model_without_adapters_is_exported_as_it_is() {
    let mut bench = Bench::new();
    let Some((checkpoint, model, _)) = study(&mut bench) else {
        return;
    };
    let to = bench.folder().join("export");
    export(ArtifactType::Model, &model.dir, &to, None, None).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let bytes = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        assert_eq!(bytes(&to), bytes(&checkpoint), "{name}");
    }
    let to = bench.folder().join("adapter");
    let error = export(
        ArtifactType::Model,
        &model.dir,
        &to,
        Some(Format::Adapter),
        None,
    )
    .unwrap_err();
    assert!(matches!(error, ExportError::NoAdapter), "{error}");
    assert!(!to.exists(), "nothing is left of an export that failed");
}

#[test]
fn golden_sixteen_bits_run_on_the_processor_too() {
    let mut bench = Bench::new();
    let Some((checkpoint, _, data)) = study(&mut bench) else {
        return;
    };
    let params = with(model_params(&checkpoint), json!({"precision": "bf16"}));
    let run = bench.run("model", params, &[]);
    let model = input("model", &run.output("model"));
    for more in [json!({}), lora()] {
        let trained = bench.run("sft", with(sft(2), more), &inputs(&model, &data));
        trained.summary();
        let trained = input("sft", &trained.output("model"));
        assert!(!answers(&mut bench, &trained, &data).is_empty());
    }
}

/// Scoring and evaluation may see larger images than training did: QwenLM/Qwen3-VL#1052.
#[test]
fn golden_limits_of_an_images_area_hold_for_their_stage() {
    let mut bench = Bench::new();
    let Some((_, model, data)) = study(&mut bench) else {
        return;
    };
    let small = json!({"max_pixels": 3136});
    for (kind, params) in [
        ("sft", with(sft(1), lora())),
        ("rollout", json!({"n": 1, "max_new_tokens": 2})),
        ("eval", json!({"max_new_tokens": 2})),
        (
            "grpo",
            with(
                json!({"steps": 1, "prompts_per_step": 2, "generations": 2, "max_new_tokens": 3, "learning_rate": 1e-2}),
                lora(),
            ),
        ),
    ] {
        let plain = bench.run(kind, params.clone(), &inputs(&model, &data));
        plain.summary();
        let limited = bench.run(kind, with(params, small.clone()), &inputs(&model, &data));
        limited.summary();
        // The answers of `eval` have no log-probabilities, and may be the same.
        if kind != "eval" {
            assert_ne!(plain.files(), limited.files(), "{kind}");
        }
    }
    // A model trained under a stage's limits keeps its own.
    let trained = bench.run("sft", with(sft(1), small), &inputs(&model, &data));
    let settings = |dir: &Path| std::fs::read(dir.join("dcsft.json")).unwrap();
    assert_eq!(settings(&trained.output("model")), settings(&model.dir));
}

#[test]
fn limits_of_an_images_area_are_in_the_key_and_checked() {
    let registry = dcsft_stages::registry();
    for kind in ["sft", "grpo", "rollout", "eval"] {
        let resolve = |more: Value| {
            let base = match kind {
                "sft" | "grpo" => json!({"steps": 1, "learning_rate": 1e-3}),
                _ => json!({}),
            };
            let kind = registry.get(kind).unwrap();
            kind.resolve(&with(base, more), Path::new(""))
        };
        let plain = resolve(json!({})).unwrap();
        assert!(
            plain.params.value().get("max_pixels").is_none(),
            "{kind}: keys stay as they are"
        );
        let limited = resolve(json!({"min_pixels": 784, "max_pixels": 3136})).unwrap();
        assert_eq!(limited.params.value()["max_pixels"], 3136, "{kind}");
        let error = resolve(json!({"min_pixels": 9, "max_pixels": 8})).unwrap_err();
        assert_eq!(error[0].path.join("."), "min_pixels", "{kind}");
        assert!(error[0].message.contains("above"), "{}", error[0].message);
        assert!(resolve(json!({"max_pixels": 0})).is_err(), "{kind}");
    }
}

#[test]
fn a_micro_model_has_no_limits_of_an_images_area() {
    let mut bench = Bench::new();
    let Some(data) = pictures(&mut bench) else {
        return;
    };
    let model = bench.run("model", json!({"kind": "micro"}), &[]);
    let model = input("model", &model.output("model"));
    for kind in ["rollout", "eval"] {
        let failed = bench
            .run(kind, json!({"max_pixels": 784}), &inputs(&model, &data))
            .failure();
        assert!(
            failed.contains("`max_pixels` has no effect on a micro model"),
            "{failed}"
        );
    }
}

/// A folder that is no checkpoint of this family is told when the spec is read, not when the stage runs.
#[test]
fn golden_a_folder_of_another_family_is_refused_with_the_params() {
    let Some(checkpoint) = golden("ckpt") else {
        return;
    };
    let registry = dcsft_stages::registry();
    let model = registry.get("model").unwrap();
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&checkpoint).unwrap() {
        let entry = entry.unwrap();
        std::fs::write(
            folder.path().join(entry.file_name()),
            std::fs::read(entry.path()).unwrap(),
        )
        .unwrap();
    }
    let resolve = || model.resolve(&model_params(folder.path()), Path::new(""));
    assert!(resolve().is_ok());
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let other = text.replacen("\"qwen2_5_vl\"", "\"llava\"", 1);
    std::fs::write(&config, other).unwrap();
    let found = resolve().unwrap_err();
    assert_eq!(found[0].path.join("."), "path");
    assert!(
        found[0].message.contains("`llava` checkpoint"),
        "{}",
        found[0].message
    );
}

/// A model that computes nothing is not evaluated to an accuracy of zero.
#[test]
fn golden_logits_that_are_no_numbers_stop_a_stage() {
    let mut bench = Bench::new();
    let Some((_, model, data)) = study(&mut bench) else {
        return;
    };
    // As if training had gone astray: the stage `model` itself refuses such weights.
    let broken = bench.folder().join("broken");
    std::fs::create_dir(&broken).unwrap();
    for entry in std::fs::read_dir(&model.dir).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if entry.file_name() == "model.safetensors" {
            let end = bytes.len() & !3;
            for word in bytes[end - 4096..end].chunks_exact_mut(4) {
                word.copy_from_slice(&f32::NAN.to_le_bytes());
            }
        }
        std::fs::write(broken.join(entry.file_name()), bytes).unwrap();
    }
    let failed = bench.run("model", model_params(&broken), &[]).failure();
    assert!(failed.contains("NaN"), "{failed}");
    let broken = input("model", &broken);
    for (kind, params) in [("eval", json!({})), ("rollout", json!({"n": 1}))] {
        let failed = bench.run(kind, params, &inputs(&broken, &data)).failure();
        assert!(
            failed.contains("NaN") && failed.contains("token 1"),
            "{kind}: {failed}"
        );
    }
}

/// The 32-bit values of the trained weights in a state that a run has left.
fn trained_values(state: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(state.join(dcsft_vlm::train::STATE_FILE)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &safetensors::tensor::TensorView| -> Vec<f32> {
        let bytes = view.data().as_chunks::<4>().0.iter();
        bytes.map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let params = tensors
        .iter()
        .filter(|(name, _)| name.starts_with("param."));
    params
        .map(|(name, view)| (name.to_owned(), values(&view)))
        .collect()
}

/// A run at a rate at which a step is far smaller than the last bit of a bf16 weight.
fn cold_start(more: Value) -> Value {
    let with_state = json!({"steps": 25, "batch_size": 4, "gradient_accumulation": 4, "learning_rate": 1e-5,
        "betas": [0.9, 0.95], "weight_decay": 0.1, "schedule": "constant", "warmup_steps": 3, "keep_state": true});
    with(with_state, more)
}

#[test]
fn golden_full_training_in_bf16_moves_the_weights_as_in_f32() {
    let mut bench = Bench::new();
    let (Some(checkpoint), Some(photos)) = (golden("ckpt_hub_bf16"), common::shared("data/photos"))
    else {
        return;
    };
    let list = json!({"path": photos.join("cold_start.json"), "image_root": photos, "limit": 400,
        "prompt": "<image>object?"});
    let run = bench.run("dataset", list, &[]);
    run.summary();
    let data = input("data", &run.output("data"));
    let mut runs = Vec::new();
    for precision in ["f32", "bf16"] {
        let limits = json!({"precision": precision, "max_pixels": 12544});
        let run = bench.run("model", with(model_params(&checkpoint), limits), &[]);
        let model = input("model", &run.output("model"));
        let mut trained = |more: Value| {
            let run = bench.run("sft", cold_start(more), &inputs(&model, &data));
            run.summary();
            let log = json_lines(&run.output("log").join("loss.jsonl"));
            (trained_values(&run.output("state")), log)
        };
        let (start, _) = trained(json!({"steps": 1, "learning_rate": 0.0}));
        let (end, log) = trained(json!({}));
        runs.push((start, end, log));
    }
    let [exact, rounded] = runs.try_into().unwrap_or_else(|_| unreachable!("two runs"));
    assert_eq!(exact.0, rounded.0, "both start from the checkpoint");
    let (mut product, mut squares, mut moved, mut all) = (0.0, [0.0; 2], [0usize; 2], 0usize);
    for (name, start) in &exact.0 {
        for (index, start) in start.iter().enumerate() {
            let moves = [&exact.1, &rounded.1].map(|end| f64::from(end[name][index] - start));
            product += moves[0] * moves[1];
            all += 1;
            for run in 0..2 {
                squares[run] += moves[run] * moves[run];
                moved[run] += usize::from(moves[run] != 0.0);
            }
        }
    }
    let lengths = squares.map(f64::sqrt);
    let (cosine, ratio) = (product / lengths[0] / lengths[1], lengths[1] / lengths[0]);
    let loss = |log: &[Value]| [0, 24].map(|step| log[step]["loss"].as_f64().unwrap());
    eprintln!(
        "moved: f32 {:.1} %, bf16 {:.1} %; length bf16/f32 {ratio:.4}, cosine {cosine:.4}; loss f32 {:.4?}, bf16 {:.4?}",
        100.0 * moved[0] as f64 / all as f64,
        100.0 * moved[1] as f64 / all as f64,
        loss(&exact.2),
        loss(&rounded.2)
    );
    assert!(cosine > 0.99, "cosine {cosine}");
    assert!((ratio - 1.0).abs() < 0.03, "length {ratio}");
}

#[test]
fn golden_interrupted_training_in_bf16_ends_with_the_same_bytes() {
    let mut bench = Bench::new();
    let (Some(checkpoint), Some(data)) = (golden("ckpt_hub_bf16"), pictures(&mut bench)) else {
        return;
    };
    let params = with(model_params(&checkpoint), json!({"precision": "bf16"}));
    let run = bench.run("model", params, &[]);
    let model = input("model", &run.output("model"));
    let params = cold_start(json!({"steps": 4, "batch_size": 2, "gradient_accumulation": 2}));
    let straight = bench.run("sft", params.clone(), &inputs(&model, &data));
    straight.summary();
    let state = bench.folder();
    for tried in 0..3 {
        let how = How {
            interrupt_after: (tried < 2).then_some(1),
            state: Some(state.clone()),
            ..How::default()
        };
        let run = bench.run_as("sft", params.clone(), &inputs(&model, &data), how);
        match tried {
            2 => assert_eq!(run.files(), straight.files()),
            _ => assert!(matches!(run.result, Err(StageError::Interrupted))),
        }
    }
}

#[test]
fn golden_dropout_of_grpo_is_the_same_when_blocks_are_computed_again() {
    let mut bench = Bench::new();
    let Some((_, model, data)) = study(&mut bench) else {
        return;
    };
    let params = |more: Value| {
        let lora = json!({"rank": 4, "alpha": 8, "dropout": 0.5, "targets": ["vision", "decoder"]});
        let params = json!({"steps": 2, "prompts_per_step": 2, "generations": 2, "max_new_tokens": 4,
            "learning_rate": 1e-3, "schedule": "constant", "warmup_ratio": 0, "lora": lora});
        with(params, more)
    };
    let mut run = |more: Value| {
        let run = bench.run("grpo", params(more), &inputs(&model, &data));
        run.summary();
        run.files()
    };
    let kept = run(json!({}));
    assert_eq!(kept, run(json!({})));
    let again = run(json!({"gradient_checkpointing": true}));
    assert_eq!(
        kept, again,
        "the masks of the second pass are those of the first"
    );
}

#[test]
fn golden_conversations_are_trained_as_the_reference_trains_them() {
    let (Some(checkpoint), Some(root), Some(facts)) =
        (golden("ckpt"), golden(""), golden("sft/sft.json"))
    else {
        return;
    };
    // One has two questions about an image each, one a system message and no image.
    let facts = common::read_json(&facts);
    let given = Conversations {
        root: &root,
        samples: facts["samples"].as_array().unwrap(),
        loss: facts["loss_all4_one_batch"].as_f64().unwrap(),
        labels: facts["n_label_tokens_per_sample"].as_array().unwrap(),
    };
    conversations(model_params(&checkpoint), &given);
}

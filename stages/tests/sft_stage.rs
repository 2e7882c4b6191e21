//! `sft` as a stage: it learns, checkpoints, survives interrupts, and says what is wrong with its data.

mod support;

use std::path::Path;

use dcsft_engine::stage::{Event, Input, StageError};
use serde_json::{Value, json};
use support::{Bench, How, input, json_lines, on_threads};

fn with(steps: usize) -> Value {
    json!({"steps": steps, "batch_size": 8, "learning_rate": 0.01, "warmup_ratio": 0.1, "seed": 3})
}

fn merged(mut with: Value, more: Value) -> Value {
    with.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    with
}

fn lora() -> Value {
    json!({"lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["vision", "projector", "decoder"]}})
}

fn inputs(model: &Input, data: &Input) -> [(&'static str, Vec<Input>); 2] {
    [("model", vec![model.clone()]), ("data", vec![data.clone()])]
}

fn accuracy(bench: &mut Bench, model: &Path, data: &Input) -> f64 {
    let run = bench.run(
        "eval",
        json!({"max_new_tokens": 7}),
        &inputs(&input("model", model), data),
    );
    run.summary()["results"][0]["value"].as_f64().unwrap()
}

#[test]
fn it_learns_a_set_of_64_samples() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 64, |_, name| name.to_owned()),
    );
    let before = accuracy(&mut bench, &model.dir, &data);
    let run = bench.run("sft", with(120), &inputs(&model, &data));
    let after = accuracy(&mut bench, &run.output("model"), &data);
    assert!(
        before < 0.1 && after > 0.95,
        "accuracy {before} before, {after} after: {}",
        run.summary()
    );
    let log = json_lines(&run.output("log").join("loss.jsonl"));
    assert_eq!(log.len(), 120);
    assert_eq!(log[119]["step"], 120);
    assert!(log[119]["loss"].as_f64() < log[0]["loss"].as_f64());
    assert_eq!(run.summary()["samples"], 64);
    assert_eq!(run.summary()["epochs"], 15.0);
}

#[test]
fn an_adapters_checkpoint_is_a_whole_model_that_shares_the_base_weights() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 32, |_, name| name.to_owned()),
    );
    let run = bench.run(
        "sft",
        merged(merged(with(10), lora()), json!({"save_steps": 4})),
        &inputs(&model, &data),
    );
    run.summary();
    let files = run.files();
    for step in ["step-4", "step-8", "step-10"] {
        let weights = &files[&Path::new(step).join("model.safetensors")];
        assert_eq!(
            *weights,
            std::fs::read(model.dir.join("model.safetensors")).unwrap(),
            "{step}"
        );
        assert!(
            files.contains_key(&Path::new(step).join("adapter_model.safetensors")),
            "{step}"
        );
    }
    let adapter = |output: &str| &files[&Path::new(output).join("adapter_model.safetensors")];
    assert_ne!(adapter("step-4"), adapter("step-8"));
    assert_eq!(
        adapter("model"),
        adapter("step-10"),
        "the last checkpoint is the model"
    );
    assert_eq!(
        same_file(&run.output("step-4"), &model.dir),
        cfg!(unix),
        "the base is linked, not copied"
    );
}

#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let inode = |dir: &Path| {
        std::fs::metadata(dir.join("model.safetensors"))
            .unwrap()
            .ino()
    };
    inode(a) == inode(b)
}

#[cfg(not(unix))]
fn same_file(_: &Path, _: &Path) -> bool {
    false
}

#[test]
fn adapters_can_be_trained_on_top_of_adapters() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 32, |_, name| name.to_owned()),
    );
    let first = bench.run("sft", merged(with(10), lora()), &inputs(&model, &data));
    first.summary();
    let second = bench.run(
        "sft",
        merged(with(2), lora()),
        &inputs(&input("sft", &first.output("model")), &data),
    );
    second.summary();
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert_ne!(
        weights(&second.output("model")),
        weights(&model.dir),
        "the first adapters are in the weights"
    );
}

#[test]
fn interrupted_runs_end_with_the_same_bytes() {
    for more in [
        json!({}),
        merged(
            lora(),
            json!({"auxiliary": {"label": "class", "weight": 0.5}}),
        ),
    ] {
        let mut bench = Bench::new();
        let (model, data) = (
            bench.model(0),
            bench.colours("train", 0, 32, |_, name| name.to_owned()),
        );
        let with = merged(merged(with(9), more), json!({"save_steps": 3}));
        let straight = bench.run("sft", with.clone(), &inputs(&model, &data));
        straight.summary();
        let state = bench.folder();
        // The first progress event comes with the first step, so each of these tries makes one step.
        for tried in 0..4 {
            let how = How {
                interrupt_after: Some(1),
                state: Some(state.clone()),
                ..How::default()
            };
            let run = bench.run_as("sft", with.clone(), &inputs(&model, &data), how);
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
        let resumed = bench.run_as("sft", with, &inputs(&model, &data), how);
        resumed.summary();
        let log = |event: &Event| matches!(event, Event::Log { message } if message.contains("after step 4 of 9"));
        assert!(resumed.events.iter().any(log), "{:?}", resumed.events);
        assert_eq!(resumed.files(), straight.files());
        assert_eq!(resumed.summary(), straight.summary());
    }
}

#[test]
fn threads_change_no_byte() {
    let run = |threads| {
        on_threads(threads, || {
            let mut bench = Bench::new();
            let (model, data) = (
                bench.model(0),
                bench.colours("train", 0, 40, |_, name| name.to_owned()),
            );
            bench
                .run("sft", merged(with(6), lora()), &inputs(&model, &data))
                .files()
        })
    };
    assert_eq!(run(1), run(2));
}

/// Changes one bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_state_or_checkpoint_is_not_taken_up_and_the_stage_starts_anew() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 32, |_, name| name.to_owned()),
    );
    let with = merged(with(6), json!({"save_steps": 2}));
    let straight = bench.run("sft", with.clone(), &inputs(&model, &data));
    straight.summary();
    let state = |dir: &Path| dir.join(dcsft_vlm::train::STATE_FILE);
    type Damage<'a> = &'a dyn Fn(&Path);
    let kinds: [(&str, Damage); 6] = [
        ("nothing", &|_| ()),
        ("a bit of the state", &|dir| damage(&state(dir))),
        ("no state at all", &|dir| {
            std::fs::write(state(dir), "no state at all").unwrap();
        }),
        ("a folder in the place of the state", &|dir| {
            std::fs::remove_file(state(dir)).unwrap();
            std::fs::create_dir(state(dir)).unwrap();
        }),
        ("half of the state", &|dir| {
            let bytes = std::fs::read(state(dir)).unwrap();
            std::fs::write(state(dir), &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a bit of a checkpoint", &|dir| {
            damage(&dir.join("checkpoints/step-2/model.safetensors"));
        }),
    ];
    for (what, hit) in kinds {
        let dir = bench.folder();
        for _ in 0..3 {
            let how = How {
                interrupt_after: Some(1),
                state: Some(dir.clone()),
                ..How::default()
            };
            let run = bench.run_as("sft", with.clone(), &inputs(&model, &data), how);
            assert!(matches!(run.result, Err(StageError::Interrupted)));
        }
        hit(&dir);
        let how = How {
            state: Some(dir),
            ..How::default()
        };
        let resumed = bench.run_as("sft", with.clone(), &inputs(&model, &data), how);
        resumed.summary();
        let said = |text: &str| {
            let log =
                |event: &Event| matches!(event, Event::Log { message } if message.contains(text));
            resumed.events.iter().any(log)
        };
        let whole = what == "nothing";
        assert_eq!(
            said("after step 3 of 6"),
            whole,
            "{what}: {:?}",
            resumed.events
        );
        assert_eq!(
            said("warning: the saved state is not taken up"),
            !whole,
            "{what}"
        );
        assert_eq!(resumed.files(), straight.files(), "{what}");
    }
}

#[test]
fn samples_that_do_not_fit_are_counted_or_fail_the_stage() {
    let mut bench = Bench::new();
    let model = bench.model(0);
    let answer = |index: usize, name: &str| match index {
        0 => "Red!".to_owned(),
        1 | 2 => "aquamarineish".to_owned(),
        _ => name.to_owned(),
    };
    let data = bench.colours("train", 0, 16, answer);
    let run = bench.run("sft", with(2), &inputs(&model, &data));
    let expected = json!({"count": 3, "of": 16, "unit": "sample", "reasons": {"too_long": 2, "vocabulary": 1},
                          "list": "log/dropped.jsonl"});
    assert_eq!(run.summary()["left_out"], expected);
    let listed = json_lines(&run.output("log").join("dropped.jsonl"));
    let reasons: Vec<_> = listed
        .iter()
        .map(|line| line["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["vocabulary", "too_long", "too_long"]);
    assert_eq!(run.summary()["samples"], 13);
    let failed = bench.run(
        "sft",
        merged(with(2), json!({"on_error": "fail"})),
        &inputs(&model, &data),
    );
    let message = failed.failure();
    assert!(
        message.contains("Red!") && message.contains("on_error: drop"),
        "{message}"
    );
}

#[test]
fn nothing_to_train_on_is_said_clearly() {
    let mut bench = Bench::new();
    let model = bench.model(0);
    let empty = bench.colours("train", 0, 0, |_, name| name.to_owned());
    let message = bench.run("sft", with(2), &inputs(&model, &empty)).failure();
    assert!(message.contains("has no samples"), "{message}");
    let unwritable = bench.colours("train", 0, 5, |_, _| "RED".to_owned());
    let message = bench
        .run("sft", with(2), &inputs(&model, &unwritable))
        .failure();
    assert!(
        message.contains("none of the 5 samples") && message.contains("vocabulary: 5"),
        "{message}"
    );
}

#[test]
fn an_unknown_label_of_the_auxiliary_classifier_is_named() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 8, |_, name| name.to_owned()),
    );
    let with = merged(with(2), json!({"auxiliary": {"label": "shape"}}));
    let message = bench.run("sft", with, &inputs(&model, &data)).failure();
    assert!(
        message.contains("\"shape\"") && message.contains("class"),
        "{message}"
    );
}

#[test]
fn mistakes_in_params_are_found_before_anything_runs() {
    let registry = dcsft_stages::registry();
    let sft = registry.get("sft").unwrap();
    let problems = |with: Value| {
        let problems = sft.resolve(&with, Path::new("")).unwrap_err();
        problems
            .into_iter()
            .map(|problem| (problem.path.join("."), problem.message))
            .collect::<Vec<_>>()
    };
    let found = problems(json!({"steps": 10, "learning_rat": 1e-3}));
    assert!(found[0].1.contains("learning_rat"), "{found:?}");
    let found = problems(json!({"steps": 10, "warmup_ratio": 3.0}));
    assert_eq!(found[0].0, "warmup_ratio", "{found:?}");
    let found = problems(json!({"epochs": 1, "save_steps": 10}));
    assert_eq!(found[0].0, "save_steps", "{found:?}");
    let found = problems(json!({"steps": 10, "lora": {"rank": 0}}));
    assert_eq!(found[0].0, "lora", "{found:?}");
}

#[test]
fn defaults_are_written_out_in_the_key() {
    let registry = dcsft_stages::registry();
    let resolved = registry
        .get("sft")
        .unwrap()
        .resolve(&json!({"steps": 10}), Path::new(""))
        .unwrap();
    assert_eq!(resolved.params.value()["batch_size"], 16);
    assert_eq!(resolved.params.value()["betas"], json!([0.9, 0.999]));
    assert_eq!(resolved.params.value()["lora"], Value::Null);
    let names: Vec<_> = resolved
        .outputs
        .iter()
        .map(|output| output.name.as_str())
        .collect();
    assert_eq!(names, ["model", "step-10", "log"]);
}

#[test]
fn progress_names_steps_loss_and_rate() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 16, |_, name| name.to_owned()),
    );
    let run = bench.run("sft", with(5), &inputs(&model, &data));
    run.summary();
    let progress: Vec<_> = run
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Progress(progress) => Some(progress),
            _ => None,
        })
        .collect();
    let last = progress.last().unwrap();
    assert_eq!((last.done, last.total, last.unit.as_str()), (5, 5, "step"));
    assert!(last.fields.contains_key("loss") && last.fields.contains_key("lr"));
    assert!(last.rate.is_some());
}

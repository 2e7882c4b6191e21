//! `grpo` as a stage: reward rises, interrupts change nothing, and the log names difficulty bins.

mod support;

use std::path::Path;

use dcsft_engine::stage::{Input, StageError};
use serde_json::{Value, json};
use support::{Bench, How, input, json_lines, on_threads};

/// A model that names the colours in most answers, and 40 samples.
fn world(bench: &mut Bench) -> (Input, Input) {
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 40, |_, name| name.to_owned()),
    );
    let with = json!({"steps": 35, "batch_size": 8, "learning_rate": 0.01, "seed": 3});
    let run = bench.run(
        "sft",
        with,
        &[("model", vec![model]), ("data", vec![data.clone()])],
    );
    run.summary();
    (input("sft", &run.output("model")), data)
}

fn inputs(model: &Input, data: &Input) -> Vec<(&'static str, Vec<Input>)> {
    vec![("model", vec![model.clone()]), ("data", vec![data.clone()])]
}

fn with(steps: usize, more: Value) -> Value {
    let mut with = json!({"steps": steps, "prompts_per_step": 8, "generations": 4, "max_new_tokens": 7,
        "learning_rate": 0.003, "warmup_ratio": 0.0, "seed": 1});
    with.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    with
}

fn difficulty(bench: &mut Bench, model: &Input, data: &Input) -> Input {
    let rollouts = bench.run(
        "rollout",
        json!({"n": 4, "max_new_tokens": 7}),
        &inputs(model, data),
    );
    rollouts.summary();
    let inputs = [
        (
            "rollouts",
            vec![input("rollouts", &rollouts.output("rollouts"))],
        ),
        ("data", vec![data.clone()]),
    ];
    let run = bench.run("difficulty", json!({}), &inputs);
    run.summary();
    input("difficulty", &run.output("scores"))
}

#[test]
fn reward_rises_and_the_gradient_is_told_apart_by_difficulty() {
    let mut bench = Bench::new();
    let (model, data) = world(&mut bench);
    let scores = difficulty(&mut bench, &model, &data);
    let mut inputs = inputs(&model, &data);
    inputs.push(("difficulty", vec![scores]));
    let run = bench.run("grpo", with(60, json!({"save_steps": 20})), &inputs);
    let summary = run.summary();

    let log = json_lines(&run.output("log").join("grpo.jsonl"));
    assert_eq!(log.len(), 60);
    let mean = |lines: &[Value]| {
        lines
            .iter()
            .map(|line| line["reward"].as_f64().unwrap())
            .sum::<f64>()
            / lines.len() as f64
    };
    assert!(
        mean(&log[55..]) > mean(&log[..5]) + 0.1,
        "{} to {}",
        mean(&log[..5]),
        mean(&log[55..])
    );
    for line in &log {
        let bins = line["bins"].as_object().unwrap();
        assert_eq!(bins.keys().collect::<Vec<_>>(), ["easy", "medium", "hard"]);
        let groups: u64 = bins
            .values()
            .map(|bin| bin["groups"].as_u64().unwrap())
            .sum();
        assert_eq!(groups, 8);
        assert!(line["kl"].as_f64().unwrap() >= 0.0);
    }
    let shares = summary["implicit_filter"].as_array().unwrap();
    for field in ["group_share", "gradient_share", "advantage_share"] {
        let sum: f64 = shares
            .iter()
            .map(|share| share[field].as_f64().unwrap())
            .sum();
        assert!((sum - 1.0).abs() < 1e-9, "{field} add up to {sum}");
    }
    for step in ["step-20", "step-40", "step-60", "model"] {
        assert!(run.output(step).join("model.safetensors").exists());
    }
}

#[test]
fn difficulty_does_not_change_the_model() {
    let mut bench = Bench::new();
    let (model, data) = world(&mut bench);
    let scores = difficulty(&mut bench, &model, &data);
    let without = bench.run("grpo", with(3, json!({})), &inputs(&model, &data));
    assert_eq!(without.summary()["implicit_filter"][0]["bin"], "all");
    let mut told = inputs(&model, &data);
    told.push(("difficulty", vec![scores]));
    let with = bench.run("grpo", with(3, json!({})), &told);
    with.summary();
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert_eq!(
        weights(&with.output("model")),
        weights(&without.output("model"))
    );
}

#[test]
fn interrupts_and_threads_change_no_byte() {
    let lora = json!({"lora": {"rank": 4, "alpha": 8}, "updates_per_batch": 2, "save_steps": 2});
    for more in [json!({"beta": 0.0}), lora] {
        let run = |threads: usize, interrupts: usize| {
            let more = more.clone();
            on_threads(threads, move || {
                let mut bench = Bench::new();
                let (model, data) = world(&mut bench);
                let state = bench.folder();
                for _ in 0..interrupts {
                    let how = How {
                        interrupt_after: Some(1),
                        state: Some(state.clone()),
                        ..How::default()
                    };
                    let run =
                        bench.run_as("grpo", with(4, more.clone()), &inputs(&model, &data), how);
                    assert!(matches!(run.result, Err(StageError::Interrupted)));
                }
                let how = How {
                    interrupt_after: None,
                    state: Some(state),
                    ..How::default()
                };
                let run = bench.run_as("grpo", with(4, more), &inputs(&model, &data), how);
                (run.files(), run.summary().clone())
            })
        };
        let straight = run(1, 0);
        assert_eq!(run(2, 3), straight);
    }
}

#[test]
fn right_answers_that_cannot_be_scored_are_dropped_with_their_reason() {
    let mut bench = Bench::new();
    let model = bench.model(0);
    let data = bench.colours("train", 0, 8, |index, name| {
        if index == 1 {
            String::new()
        } else {
            name.to_owned()
        }
    });
    let run = bench.run("grpo", with(1, json!({})), &inputs(&model, &data));
    assert_eq!(run.summary()["left_out"]["reasons"], json!({"answer": 1}));
    let failed = bench.run(
        "grpo",
        with(1, json!({"on_error": "fail"})),
        &inputs(&model, &data),
    );
    assert!(
        failed.failure().contains("the right answer is empty"),
        "{}",
        failed.failure()
    );
}

#[test]
fn mistakes_in_params_name_their_field() {
    let registry = dcsft_stages::registry();
    let kind = registry.get("grpo").unwrap();
    for (field, value) in [
        ("generations", json!(1)),
        ("temperature", json!(0.0)),
        ("temperature", json!(1e-9)),
        ("beta", json!(-1.0)),
    ] {
        let problems = kind
            .resolve(&json!({"steps": 2, field: value}), Path::new(""))
            .unwrap_err();
        assert_eq!(problems[0].path.to_string(), field, "{problems:?}");
    }
}

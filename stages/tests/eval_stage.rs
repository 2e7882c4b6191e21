//! `eval` as a stage: what it counts and what it writes.

mod support;

use dcsft_engine::stage::{Input, StageError};
use serde_json::{Value, json};
use support::{Bench, How, input, json_lines, on_threads};

fn inputs(model: &Input, data: &Input) -> [(&'static str, Vec<Input>); 2] {
    [("model", vec![model.clone()]), ("data", vec![data.clone()])]
}

/// A model that names all colours.
fn trained(bench: &mut Bench) -> Input {
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 64, |_, name| name.to_owned()),
    );
    let with = json!({"steps": 120, "batch_size": 8, "learning_rate": 0.01, "seed": 3});
    let run = bench.run("sft", with, &inputs(&model, &data));
    run.summary();
    input("sft", &run.output("model"))
}

fn metric<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let results = summary["results"].as_array().unwrap();
    results.iter().find(|row| row["metric"] == name).unwrap()
}

#[test]
fn accuracy_and_format_are_counted_over_all_samples() {
    let mut bench = Bench::new();
    let model = trained(&mut bench);
    // Every fourth right answer is called wrong, the others carry what normalisation takes away.
    let answer = |index: usize, name: &str| {
        if index.is_multiple_of(4) {
            "blue".to_owned()
        } else {
            format!(" {}.", name.to_uppercase())
        }
    };
    let data = bench.colours("val", 1, 80, answer);
    let run = bench.run("eval", json!({"max_new_tokens": 7}), &inputs(&model, &data));
    let accuracy = metric(run.summary(), "accuracy");
    assert_eq!(
        (&accuracy["set"], &accuracy["split"], &accuracy["n"]),
        (&json!("val"), &json!("id"), &json!(80))
    );
    let value = accuracy["value"].as_f64().unwrap();
    assert!(
        (0.7..=0.8).contains(&value),
        "the answers for red are wrong: {value}"
    );
    let ends = accuracy["ci"].as_array().unwrap();
    assert!(ends[0].as_f64().unwrap() < value && value < ends[1].as_f64().unwrap());

    let answers = json_lines(&run.output("evaluation").join("answers.jsonl"));
    assert_eq!(answers.len(), 80);
    let right = answers
        .iter()
        .filter(|answer| answer["correct"] == true)
        .count();
    assert_eq!(right as f64 / 80.0, value);
    let red = &answers[0];
    assert_eq!(
        (&red["text"], &red["expected"], &red["correct"]),
        (&json!("red"), &json!("blue"), &json!(false))
    );
    // No sample of the set has the answer `red`, so it does not count as well-formed either.
    assert_eq!(red["well_formed"], false);
    let file: Value = serde_json::from_slice(
        &std::fs::read(run.output("evaluation").join("metrics.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(file["results"], run.summary()["results"]);
}

#[test]
fn an_untrained_model_has_neither_accuracy_nor_format() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("val", 1, 40, |_, name| name.to_owned()),
    );
    let run = bench.run("eval", json!({"max_new_tokens": 7}), &inputs(&model, &data));
    for name in ["accuracy", "format_accuracy"] {
        assert!(
            metric(run.summary(), name)["value"].as_f64().unwrap() < 0.2,
            "{}",
            run.summary()
        );
    }
}

#[test]
fn a_sample_that_cannot_be_asked_fails_the_stage_unless_it_may_be_dropped() {
    let mut bench = Bench::new();
    let model = bench.model(0);
    let data = bench.colours("val", 1, 8, |index, name| {
        if index == 2 {
            String::new()
        } else {
            name.to_owned()
        }
    });
    let message = bench
        .run("eval", json!({}), &inputs(&model, &data))
        .failure();
    assert!(message.contains("the right answer is empty"), "{message}");
    let run = bench.run("eval", json!({"on_error": "drop"}), &inputs(&model, &data));
    assert_eq!(metric(run.summary(), "accuracy")["n"], 7);
    assert_eq!(run.summary()["left_out"]["reasons"], json!({"answer": 1}));
    let message = bench
        .run(
            "eval",
            json!({"prompt": "What?", "on_error": "drop"}),
            &inputs(&model, &data),
        )
        .failure();
    assert!(
        message.contains("none of the 8 samples"),
        "the model cannot read the question: {message}"
    );
}

#[test]
fn an_interrupt_and_the_number_of_threads_change_no_byte() {
    let run = |threads: usize, interrupts: usize| {
        on_threads(threads, || {
            let mut bench = Bench::new();
            let (model, data) = (
                bench.model(0),
                bench.colours("val", 1, 700, |_, name| name.to_owned()),
            );
            let state = bench.folder();
            let how = |interrupt_after| How {
                interrupt_after,
                state: Some(state.clone()),
                ..How::default()
            };
            for _ in 0..interrupts {
                let run = bench.run_as("eval", json!({}), &inputs(&model, &data), how(Some(1)));
                assert!(matches!(run.result, Err(StageError::Interrupted)));
            }
            bench
                .run_as("eval", json!({}), &inputs(&model, &data), how(None))
                .files()
        })
    };
    let straight = run(1, 0);
    assert_eq!(run(2, 0), straight);
    assert_eq!(run(2, 2), straight);
}

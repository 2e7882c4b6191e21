//! `rollout` as a stage: its records, and that nothing but its params and inputs changes a byte.

mod support;

use std::collections::BTreeMap;

use dcsft_engine::kind::{Input, StageError};
use dcsft_stages::data::{Dataset, RolloutRecord, Rollouts};
use serde_json::{Value, json};
use support::{Bench, How, on_threads};

fn inputs(model: &Input, data: &Input) -> [(&'static str, Vec<Input>); 2] {
    [("model", vec![model.clone()]), ("data", vec![data.clone()])]
}

fn with(n: u32) -> Value {
    json!({"n": n, "temperature": 0.9, "max_new_tokens": 7, "seed": 5})
}

fn records(bench: &mut Bench, with: Value, model: &Input, data: &Input) -> Vec<RolloutRecord> {
    let run = bench.run("rollout", with, &inputs(model, data));
    run.summary();
    Rollouts::open(&run.output("rollouts")).unwrap().records
}

#[test]
fn every_sample_gets_n_scored_answers() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 20, |_, name| name.to_owned()),
    );
    let run = bench.run("rollout", with(4), &inputs(&model, &data));
    let rollouts = Rollouts::open(&run.output("rollouts")).unwrap();
    assert_eq!(
        (
            rollouts.info.n,
            rollouts.info.count,
            rollouts.info.set.as_str()
        ),
        (4, 20, "train")
    );
    let data = Dataset::open(&data.dir).unwrap();
    for (record, sample) in rollouts.records.iter().zip(data.samples()) {
        assert_eq!(record.id, sample.id);
        for generation in &record.generations {
            assert_eq!(generation.tokens.len(), generation.logprobs.len());
            assert!(generation.logprobs.iter().all(|logprob| *logprob <= 0.0));
            let right = generation.text.trim_matches('.') == sample.answer;
            assert_eq!(
                generation.is_right(),
                right,
                "{:?} for {:?}",
                generation.text,
                sample.answer
            );
        }
    }
    let counts: Vec<u64> =
        serde_json::from_value(run.summary()["right_histogram"].clone()).unwrap();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (5, 20));
}

#[test]
fn an_answer_depends_neither_on_n_nor_on_the_other_samples() {
    let mut bench = Bench::new();
    let (model, all) = (
        bench.model(0),
        bench.colours("train", 0, 300, |_, name| name.to_owned()),
    );
    let four = records(&mut bench, with(4), &model, &all);
    let two = records(&mut bench, with(2), &model, &all);
    for (four, two) in four.iter().zip(&two) {
        assert_eq!(four.generations[..2], two.generations[..]);
    }
    // A part of the set, in another order, so that every sample stands in another batch.
    let part = bench.folder();
    let source = Dataset::open(&all.dir).unwrap();
    let rows: Vec<usize> = (0..300).rev().filter(|row| row % 3 != 0).collect();
    let files = BTreeMap::from([
        ("samples.jsonl", lines(&source, &rows)),
        ("dataset.json", info(rows.len())),
    ]);
    for (name, text) in files {
        std::fs::write(part.join(name), text).unwrap();
    }
    std::fs::copy(all.dir.join("images.pack"), part.join("images.pack")).unwrap();
    let part = records(&mut bench, with(4), &model, &support::input("part", &part));
    assert_eq!(part.len(), rows.len());
    for (record, row) in part.iter().zip(rows) {
        assert_eq!(*record, four[row]);
    }
}

fn lines(data: &Dataset, rows: &[usize]) -> String {
    rows.iter()
        .map(|&row| serde_json::to_string(&data.samples()[row]).unwrap() + "\n")
        .collect()
}

fn info(count: usize) -> String {
    json!({"format": 1, "set": "train", "split": "id", "count": count}).to_string()
}

#[test]
fn an_interrupt_a_torn_state_and_threads_change_no_byte() {
    let run = |threads: usize, interrupts: usize| {
        on_threads(threads, || {
            let mut bench = Bench::new();
            let (model, data) = (
                bench.model(0),
                bench.colours("train", 0, 700, |_, name| name.to_owned()),
            );
            let state = bench.folder();
            let how = |interrupt_after| How {
                interrupt_after,
                state: Some(state.clone()),
            };
            for _ in 0..interrupts {
                let run = bench.run_as("rollout", with(3), &inputs(&model, &data), how(Some(1)));
                assert!(matches!(run.result, Err(StageError::Interrupted)));
                let kept = state.join("answers.jsonl");
                let bytes = std::fs::read(&kept).unwrap();
                assert!(!bytes.is_empty(), "an interrupt keeps what is done");
                std::fs::write(&kept, &bytes[..bytes.len() - 10]).unwrap();
            }
            let run = bench.run_as("rollout", with(3), &inputs(&model, &data), how(None));
            (run.files(), run.summary().clone())
        })
    };
    let straight = run(1, 0);
    assert_eq!(run(2, 0), straight);
    assert_eq!(run(2, 2), straight);
}

#[test]
fn another_seed_draws_other_answers_and_greedy_ones_do_not_depend_on_it() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 20, |_, name| name.to_owned()),
    );
    let mut draw = |temperature: f64, seed: u64| {
        let with = json!({"n": 2, "temperature": temperature, "max_new_tokens": 7, "seed": seed});
        records(&mut bench, with, &model, &data)
    };
    assert_ne!(draw(0.9, 1), draw(0.9, 2));
    let greedy = draw(0.0, 1);
    assert_eq!(greedy, draw(0.0, 2));
    assert!(
        greedy
            .iter()
            .all(|record| record.generations[0] == record.generations[1])
    );
}

#[test]
fn mistakes_in_params_name_their_field() {
    let registry = dcsft_stages::registry();
    let kind = registry.get("rollout").unwrap();
    for (field, value) in [
        ("n", json!(0)),
        ("temperature", json!(-1.0)),
        ("top_p", json!(0.0)),
        ("max_new_tokens", json!(0)),
    ] {
        let problems = kind
            .resolve(&json!({field: value}), std::path::Path::new(""))
            .unwrap_err();
        assert_eq!(problems[0].path, [field]);
    }
    let problems = kind
        .resolve(
            &json!({"reward": {"iou": {"threshold": 2.0}}}),
            std::path::Path::new(""),
        )
        .unwrap_err();
    assert_eq!(problems[0].path, ["reward", "iou", "threshold"]);
}

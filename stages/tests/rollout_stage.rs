//! `rollout` as a stage: its records, and that nothing but its params and inputs changes a byte.

mod support;

use std::collections::BTreeMap;

use dcsft_engine::stage::{Cost, Event, Input, Relative, StageError};
use dcsft_stages::data::{Dataset, Generation, RolloutRecord, Rollouts};
use serde_json::{Value, json};
use support::{Bench, How, Run, on_threads};

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

/// A finished run of `rollout` as a later one sees it.
fn relative(run: &Run) -> Relative {
    run.summary();
    Relative {
        label: "earlier".into(),
        cost: Cost {
            seconds: 60.0,
            cpu_seconds: None,
        },
        outputs: BTreeMap::from([("rollouts".to_owned(), run.output("rollouts"))]),
    }
}

#[test]
fn answers_that_an_earlier_run_has_are_taken_and_nothing_comes_out_differently() {
    let mut bench = Bench::new();
    let model = bench.model(0);
    let few = bench.colours("train", 0, 40, |_, name| name.to_owned());
    let many = bench.colours("train", 0, 300, |_, name| name.to_owned());
    let two = bench.run("rollout", with(2), &inputs(&model, &many));
    let four = bench.run("rollout", with(4), &inputs(&model, &few));
    let relatives = vec![relative(&two), relative(&four)];
    let how = |relatives| How {
        relatives,
        ..How::default()
    };
    let fresh = bench.run("rollout", with(3), &inputs(&model, &many));
    let lent = bench.run_as("rollout", with(3), &inputs(&model, &many), how(relatives));
    assert_eq!(lent.files(), fresh.files());
    assert_eq!(lent.summary(), fresh.summary());
    // 260 samples with 2 of 600 answers each, 40 with 3 of 160.
    let saved = 60.0 * (520.0 / 600.0 + 120.0 / 160.0);
    assert_eq!(fresh.saved_seconds, 0.0);
    assert!((lent.saved_seconds - saved).abs() < 1e-9);

    // Another reward needs no new answers.
    let mut other = with(3);
    other["reward"] = json!({"regex": {"pattern": "(.*)."}});
    let scored = bench.run("rollout", other.clone(), &inputs(&model, &many));
    let relatives = vec![relative(&fresh)];
    let again = bench.run_as("rollout", other, &inputs(&model, &many), how(relatives));
    assert_eq!(again.files(), scored.files());
    assert!((again.saved_seconds - 60.0).abs() < 1e-9);
}

#[test]
fn a_lender_is_not_asked_again_and_one_that_cannot_be_read_lends_nothing() {
    let mut bench = Bench::new();
    let model = bench.model(0);
    let data = bench.colours("train", 0, 20, |_, name| name.to_owned());
    let run = bench.run("rollout", with(2), &inputs(&model, &data));
    let mut lender = relative(&run);
    // Log-probabilities that no model would give show where an answer came from.
    let path = run.output("rollouts").join("rollouts.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let marked: String = text
        .lines()
        .map(|line| {
            let mut record: RolloutRecord = serde_json::from_str(line).unwrap();
            for generation in &mut record.generations {
                generation.logprobs[0] = -1000.0;
            }
            serde_json::to_string(&record).unwrap() + "\n"
        })
        .collect();
    std::fs::write(&path, marked).unwrap();
    let how = |relatives| How {
        relatives,
        ..How::default()
    };
    let inputs = inputs(&model, &data);
    let three = bench.run_as("rollout", with(3), &inputs, how(vec![lender.clone()]));
    for record in Rollouts::open(&three.output("rollouts")).unwrap().records {
        let marked = |generation: &Generation| generation.logprobs[0] == -1000.0;
        let marked: Vec<bool> = record.generations.iter().map(marked).collect();
        assert_eq!(marked, [true, true, false]);
    }
    lender.outputs.insert("rollouts".into(), bench.folder());
    let fresh = bench.run("rollout", with(3), &inputs);
    let alone = bench.run_as("rollout", with(3), &inputs, how(vec![lender]));
    assert_eq!(alone.files(), fresh.files());
    assert_eq!(alone.saved_seconds, 0.0);
    let said = |event: &Event| matches!(event, Event::Log { message } if message.starts_with("earlier lends no answers: "));
    assert!(alone.events.iter().any(said), "{:?}", alone.events);
}

#[test]
fn only_what_draws_an_answer_makes_the_family() {
    let registry = dcsft_stages::registry();
    let kind = registry.get("rollout").unwrap();
    let family = |change: Value| {
        let mut params = with(2);
        for (name, value) in change.as_object().unwrap() {
            params[name] = value.clone();
        }
        let params = kind.resolve(&params, std::path::Path::new(".")).unwrap();
        kind.family(&params.params).unwrap()
    };
    let plain = family(json!({}));
    assert_eq!(plain.inputs, ["model"]);
    for same in [
        json!({"n": 9}),
        json!({"reward": "iou"}),
        json!({"on_error": "fail"}),
    ] {
        assert_eq!(family(same.clone()), plain, "{same}");
    }
    for other in [
        json!({"temperature": 1.0}),
        json!({"top_p": 0.5}),
        json!({"top_k": 3}),
        json!({"repetition_penalty": 1.1}),
        json!({"max_new_tokens": 8}),
        json!({"seed": 6}),
    ] {
        assert_ne!(family(other.clone()), plain, "{other}");
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
                ..How::default()
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

/// What is saved lies about until the stage is resumed, and becomes part of the result.
#[test]
fn damage_to_saved_answers_changes_no_byte() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 700, |_, name| name.to_owned()),
    );
    let straight = bench.run_as("rollout", with(2), &inputs(&model, &data), How::default());
    let expected = (straight.files(), straight.summary().clone());
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 6] = [
        ("another digit of a token", |bytes| {
            let at = bytes.len() / 2;
            let digit = (at..).find(|&at| bytes[at].is_ascii_digit()).unwrap();
            bytes[digit] = if bytes[digit] == b'1' { b'2' } else { b'1' };
        }),
        ("a line less", |bytes| {
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            bytes.drain(..=end);
        }),
        ("two lines changed places", |bytes| {
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let first: Vec<u8> = bytes.drain(..end).collect();
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            bytes.splice(end..end, first);
        }),
        ("a flipped bit", |bytes| {
            let at = bytes.len() / 3;
            bytes[at] ^= 4;
        }),
        ("nothing", Vec::clear),
        ("garbage", |bytes| *bytes = vec![0xfe; 1000]),
    ];
    for (name, damage) in damages {
        let state = bench.folder();
        let mut how = |interrupt_after| {
            let how = How {
                interrupt_after,
                state: Some(state.clone()),
                ..How::default()
            };
            bench.run_as("rollout", with(2), &inputs(&model, &data), how)
        };
        assert!(matches!(how(Some(1)).result, Err(StageError::Interrupted)));
        let kept = state.join("answers.jsonl");
        let mut bytes = std::fs::read(&kept).unwrap();
        damage(&mut bytes);
        std::fs::write(&kept, bytes).unwrap();
        let resumed = how(None);
        assert_eq!(
            (resumed.files(), resumed.summary().clone()),
            expected,
            "{name}"
        );
    }
    // Not a file at all.
    let state = bench.folder();
    std::fs::create_dir_all(state.join("answers.jsonl/inside")).unwrap();
    let how = How {
        state: Some(state),
        ..How::default()
    };
    let resumed = bench.run_as("rollout", with(2), &inputs(&model, &data), how);
    assert_eq!((resumed.files(), resumed.summary().clone()), expected);
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
        ("temperature", json!(1e-9)),
        ("top_p", json!(0.0)),
        ("max_new_tokens", json!(0)),
    ] {
        let problems = kind
            .resolve(&json!({field: value}), std::path::Path::new(""))
            .unwrap_err();
        assert_eq!(*problems[0].path, [field]);
    }
    let problems = kind
        .resolve(
            &json!({"reward": {"iou": {"threshold": 2.0}}}),
            std::path::Path::new(""),
        )
        .unwrap_err();
    assert_eq!(*problems[0].path, ["reward", "iou", "threshold"]);
}

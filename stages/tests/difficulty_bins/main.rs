//! The stage `difficulty`: intervals on exact counts, the sets made of them, and what it refuses.

mod intervals;
mod params;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::Path;

use dcsft_engine::stage::{Event, Input};
use dcsft_stages::data::{Dataset, Generation, RolloutRecord, RolloutWriter, Split};
use dcsft_stages::difficulty::Scores;
use serde_json::{Value, json};
use support::{Bench, Run, input};

const N: usize = 4;

/// Answers to the samples of `data`, of which the sample at `row` got `right(row)` of `N` right.
fn rollouts(bench: &mut Bench, data: &Input, right: impl Fn(usize) -> Option<usize>) -> Input {
    let dir = bench.folder();
    let mut writer = RolloutWriter::create(&dir, "train", Split::Id, N).unwrap();
    for (row, sample) in Dataset::open(&data.dir)
        .unwrap()
        .samples()
        .iter()
        .enumerate()
    {
        let Some(right) = right(row) else { continue };
        let generations = (0..N)
            .map(|index| Generation {
                text: "red".into(),
                tokens: vec![1, 2],
                logprobs: vec![-0.5, -(row as f32)],
                reward: if index < right { 1.0 } else { 0.0 },
                finished: true,
            })
            .collect();
        writer
            .push(&RolloutRecord {
                id: sample.id.clone(),
                generations,
            })
            .unwrap();
    }
    writer.finish().unwrap();
    input("rollouts", &dir)
}

/// 100 samples of which sample i got i mod 5 of 4 right.
fn run(with: Value) -> (Bench, Input, Run) {
    let mut bench = Bench::new();
    let data = bench.colours("train", 3, 100, |_, name| name.to_owned());
    let rollouts = rollouts(&mut bench, &data, |row| Some(row % (N + 1)));
    let run = bench.run(
        "difficulty",
        with,
        &[("data", vec![data.clone()]), ("rollouts", vec![rollouts])],
    );
    (bench, data, run)
}

/// Rows of a set in the data it was cut from.
fn rows(run: &Run, data: &Input, set: &str) -> Vec<usize> {
    let data = Dataset::open(&data.dir).unwrap();
    let subset = Dataset::open(&run.output(set)).unwrap_or_else(|error| panic!("{set}: {error}"));
    subset
        .samples()
        .iter()
        .map(|sample| data.position(&sample.id).unwrap())
        .collect()
}

#[test]
fn by_default_easy_is_all_right_hard_all_wrong_and_medium_the_rest() {
    let (_bench, data, run) = run(json!({"unions": [["easy", "medium"]]}));
    run.summary();
    let expected =
        |keep: &dyn Fn(usize) -> bool| (0..100).filter(|row| keep(row % 5)).collect::<Vec<_>>();
    assert_eq!(rows(&run, &data, "all"), expected(&|_| true));
    assert_eq!(rows(&run, &data, "easy"), expected(&|c| c == 4));
    assert_eq!(rows(&run, &data, "medium"), expected(&|c| c > 0 && c < 4));
    assert_eq!(rows(&run, &data, "hard"), expected(&|c| c == 0));
    assert_eq!(rows(&run, &data, "easy+medium"), expected(&|c| c > 0));
    let summary = run.summary();
    assert_eq!(summary["histogram"]["4"], json!([20, 20, 20, 20, 20]));
    assert_eq!(
        summary["sets"],
        json!({"all": 100, "easy": 20, "medium": 60, "hard": 20, "easy+medium": 80})
    );
    assert_eq!(
        (&summary["scored"], &summary["unscored"]),
        (&json!(100), &json!(0))
    );
}

#[test]
fn scores_name_the_counts_and_the_bin_of_each_sample_in_order() {
    let (_bench, data, run) = run(json!({}));
    let scores = Scores::open(&run.output("scores")).unwrap();
    let data = Dataset::open(&data.dir).unwrap();
    for (row, record) in scores.records.iter().enumerate() {
        assert_eq!(record.id, data.samples()[row].id);
        assert_eq!((record.c, record.n), (Some(row as u64 % 5), Some(4)));
        assert_eq!(
            record.bin.as_deref(),
            Some(["hard", "medium", "medium", "medium", "easy"][row % 5])
        );
    }
    assert_eq!(scores.bins()[data.samples()[0].id.as_str()], "hard");
    // What a run says beside them is not part of the scores.
    let mut told = run.summary().clone();
    for field in ["left_out", "warnings"] {
        told.as_object_mut().unwrap().remove(field);
    }
    assert_eq!(scores.summary, told);
}

#[test]
fn a_subset_is_samples_and_the_very_images_of_its_source() {
    let (_bench, data, run) = run(json!({}));
    let source = Dataset::open(&data.dir).unwrap();
    let easy = Dataset::open(&run.output("easy")).unwrap();
    for sample in easy.samples() {
        assert_eq!(Some(sample), source.get(&sample.id));
        assert_eq!(easy.image(sample).unwrap(), source.image(sample).unwrap());
    }
    let bytes = |dir: &Path| std::fs::read(dir.join("images.pack")).unwrap();
    assert_eq!(bytes(&data.dir), bytes(&run.output("easy")));
}

#[test]
fn the_same_rows_are_the_same_bytes_whatever_the_bin_is_called() {
    let bytes = |with: Value, set: &str| {
        let (_bench, _, run) = run(with);
        run.summary();
        ["dataset.json", "samples.jsonl"]
            .map(|file| std::fs::read(run.output(set).join(file)).unwrap())
    };
    let hard = bytes(json!({}), "hard");
    assert_eq!(
        hard,
        bytes(
            json!({"bins": {"worst": "[0, 0.125]", "rest": "(0.125, 1]"}}),
            "worst"
        )
    );
    assert_eq!(
        hard,
        bytes(json!({"bins": {"h": "c = 0", "rest": "c > 0"}}), "h")
    );
    assert_ne!(hard, bytes(json!({}), "easy"));
}

#[test]
fn counts_that_no_bin_or_two_bins_cover_are_named_even_if_no_sample_has_them() {
    let (_bench, _, gap) = run(json!({"bins": {"low": "[0, 0.25)", "high": "(0.25, 1)"}}));
    let failure = gap.failure();
    assert!(
        failure.contains("no bin covers 1/4, 4/4") && failure.contains("uncovered: drop"),
        "{failure}"
    );
    let (_bench, _, twice) = run(json!({"bins": {"low": "[0, 0.5]", "high": "[1/2, 1]"}}));
    let failure = twice.failure();
    assert!(
        failure.contains("2/4 is in two bins, `low: [0, 0.5]` and `high: [1/2, 1]`"),
        "{failure}"
    );

    let mut bench = Bench::new();
    let data = bench.colours("train", 3, 8, |_, name| name.to_owned());
    let all_right = rollouts(&mut bench, &data, |_| Some(N));
    let inputs = [("data", vec![data]), ("rollouts", vec![all_right])];
    let failure = bench
        .run("difficulty", json!({"bins": {"easy": "1"}}), &inputs)
        .failure();
    assert!(
        failure.contains("no bin covers 0/4, 1/4, 2/4, 3/4"),
        "{failure}"
    );
}

#[test]
fn uncovered_samples_can_be_dropped_and_stay_in_all() {
    let (_bench, data, run) = run(json!({"bins": {"easy": 1, "hard": 0}, "uncovered": "drop"}));
    assert_eq!(run.summary()["uncovered"], 60);
    assert_eq!(rows(&run, &data, "all").len(), 100);
    let scores = Scores::open(&run.output("scores")).unwrap();
    assert_eq!(scores.records[1].bin, None);
}

#[test]
fn controls_have_the_size_of_their_set_and_are_drawn_from_all_samples() {
    let with = json!({"unions": [["easy", "medium"]], "controls": true, "seed": 7});
    let (_bench, data, first) = run(with.clone());
    for set in ["easy", "medium", "hard", "easy+medium"] {
        let control = rows(&first, &data, &format!("random-{set}"));
        assert_eq!(control.len(), rows(&first, &data, set).len());
        assert!(
            control.is_sorted() && control.iter().collect::<BTreeSet<_>>().len() == control.len()
        );
    }
    let counts: BTreeSet<usize> = rows(&first, &data, "random-medium")
        .iter()
        .map(|row| row % 5)
        .collect();
    assert_eq!(
        counts,
        (0..5).collect(),
        "a control of 60 of 100 samples has all difficulties"
    );
    assert_ne!(
        rows(&first, &data, "random-easy"),
        rows(&first, &data, "random-hard")
    );

    let (_bench, same_data, same) = run(with);
    assert_eq!(
        rows(&first, &data, "random-easy"),
        rows(&same, &same_data, "random-easy")
    );
    let (_bench, other_data, other) = run(json!({"controls": true, "seed": 8}));
    assert_ne!(
        rows(&first, &data, "random-easy"),
        rows(&other, &other_data, "random-easy")
    );
}

#[test]
fn a_kept_share_of_a_bin_enters_its_set_and_its_unions() {
    let bins = json!({"easy": {"interval": "1", "keep": 0.25}, "medium": "(0, 1)", "hard": {"interval": 0, "keep": false}});
    let (_bench, data, run) = run(json!({"bins": bins, "unions": [["easy", "medium", "hard"]]}));
    let easy = rows(&run, &data, "easy");
    assert_eq!(easy.len(), 5);
    assert!(easy.iter().all(|row| row % 5 == 4));
    assert!(rows(&run, &data, "hard").is_empty());
    let union = rows(&run, &data, "easy+medium+hard");
    assert_eq!(union.len(), 65);
    assert!(union.is_sorted() && easy.iter().all(|row| union.contains(row)));
    assert_eq!(run.summary()["bins"][0]["count"], 20);
}

#[test]
fn an_empty_bin_is_an_empty_set_with_a_warning() {
    let mut bench = Bench::new();
    let data = bench.colours("train", 3, 10, |_, name| name.to_owned());
    let rollouts = rollouts(&mut bench, &data, |row| Some(1 + row % 2));
    let run = bench.run(
        "difficulty",
        json!({"controls": true}),
        &[("data", vec![data]), ("rollouts", vec![rollouts])],
    );
    let warnings = run.summary()["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].as_str().unwrap().contains("`easy` is empty"));
    let said = |event: &&Event| matches!(event, Event::Warning { message } if message.contains("`easy` is empty"));
    assert_eq!(
        run.events.iter().filter(said).count(),
        1,
        "the run shows it"
    );
    assert!(Dataset::open(&run.output("easy")).unwrap().is_empty());
    assert!(
        Dataset::open(&run.output("random-easy"))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_bin_that_no_number_of_right_answers_can_be_in_is_told() {
    let mut bench = Bench::new();
    let data = bench.colours("train", 3, 10, |_, name| name.to_owned());
    let rollouts = rollouts(&mut bench, &data, |row| Some(1 + row % 2));
    let run = bench.run(
        "difficulty",
        json!({"bins": {"few": "[0, 0.3]", "none": "(0.3, 0.4]", "many": "(0.4, 1]"}}),
        &[("data", vec![data]), ("rollouts", vec![rollouts])],
    );
    let warnings = run.summary()["warnings"].as_array().unwrap();
    assert_eq!(
        *warnings,
        [
            "the set `none` is empty: of 4 answers no number of right ones is in (0.3, 0.4]; nothing can be trained on it"
        ]
    );
}

#[test]
fn samples_without_rollouts_are_counted_and_left_out() {
    let mut bench = Bench::new();
    let data = bench.colours("train", 3, 10, |_, name| name.to_owned());
    let rollouts = rollouts(&mut bench, &data, |row| (row != 4).then_some(N));
    let inputs = [("data", vec![data.clone()]), ("rollouts", vec![rollouts])];
    let run = bench.run("difficulty", json!({}), &inputs);
    assert_eq!(
        (&run.summary()["scored"], &run.summary()["unscored"]),
        (&json!(9), &json!(1))
    );
    assert!(!rows(&run, &data, "all").contains(&4));
    let failure = bench
        .run("difficulty", json!({"min_valid": 10}), &inputs)
        .failure();
    assert!(
        failure.contains("9 samples of 10 have a score; min_valid asks for 10"),
        "{failure}"
    );
}

#[test]
fn rollouts_of_another_set_are_refused() {
    let mut bench = Bench::new();
    let asked = bench.colours("train", 3, 10, |_, name| name.to_owned());
    let other = bench.colours("train", 4, 10, |_, name| name.to_owned());
    let rollouts = rollouts(&mut bench, &asked, |_| Some(N));
    let run = bench.run(
        "difficulty",
        json!({}),
        &[("data", vec![other]), ("rollouts", vec![rollouts])],
    );
    assert!(
        run.failure()
            .contains("10 of 10 rollouts are of samples that the set `train` does not have")
    );
}

#[test]
fn quantiles_cut_by_the_answers_surprise_or_by_an_outside_score() {
    // The rollouts' tokens grow less likely with the row.
    let with = json!({"quantiles": {"edges": [0.25, 0.5], "names": ["low", "middle", "high"]}});
    let (mut bench, data, by_surprise) = run(with.clone());
    assert_eq!(
        rows(&by_surprise, &data, "low"),
        (0..25).collect::<Vec<_>>()
    );
    assert_eq!(
        rows(&by_surprise, &data, "middle"),
        (25..50).collect::<Vec<_>>()
    );
    assert_eq!(
        rows(&by_surprise, &data, "high"),
        (50..100).collect::<Vec<_>>()
    );

    let path = bench.folder().join("scores.jsonl");
    let samples = Dataset::open(&data.dir).unwrap().samples().to_vec();
    let write = |lines: &[Value]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
    };
    write(
        &samples
            .iter()
            .enumerate()
            .map(|(row, s)| json!({"id": s.id, "score": -(row as f64)}))
            .collect::<Vec<_>>(),
    );
    let mut outside = with;
    outside["scores"] = json!(path);
    let inputs = [("data", vec![data.clone()])];
    let by_file = bench.run("difficulty", outside.clone(), &inputs);
    assert_eq!(rows(&by_file, &data, "low"), (75..100).collect::<Vec<_>>());
    assert_eq!(rows(&by_file, &data, "high"), (0..50).collect::<Vec<_>>());

    write(&[json!({"id": "nobody", "score": 1})]);
    let failure = bench.run("difficulty", outside, &inputs).failure();
    assert!(
        failure.contains("line 1: the set `train` has no sample nobody"),
        "{failure}"
    );
    let failure = bench.run("difficulty", json!({}), &inputs).failure();
    assert!(failure.contains("give `rollouts`"), "{failure}");
}

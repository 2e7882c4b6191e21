//! `report` as a stage: rows, aggregates, histogram, filter and gallery from artifacts of a small study.

mod support;

use std::path::Path;

use dcsft_engine::stage::{Evaluated, Input};
use serde_json::{Value, json};
use support::{Bench, input, json_lines, labelled};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// An evaluation artifact as `eval` writes it.
fn evaluation(
    bench: &mut Bench,
    arm: &str,
    axes: &[(&str, Value)],
    set: (&str, &str),
    value: f64,
) -> Input {
    let dir = bench.folder();
    let row = |metric: &str, value: f64| {
        json!({"set": set.0, "split": set.1, "metric": metric, "value": value, "n": 100,
                      "ci": [value - 0.1, value + 0.1]})
    };
    let file =
        json!({"format": 1, "results": [row("accuracy", value), row("format_accuracy", 1.0)]});
    std::fs::write(dir.join("metrics.json"), file.to_string()).unwrap();
    labelled("eval", arm, axes, &dir)
}

#[test]
fn rows_aggregates_and_differences_come_from_the_labels() {
    let mut bench = Bench::new();
    let mut evals = Vec::new();
    for (seed, cold, hard) in [(0, 0.50, 0.30), (1, 0.54, 0.32), (2, 0.58, 0.40)] {
        let seed = ("seed", json!(seed));
        let set = ("set", json!("val"));
        evals.push(evaluation(
            &mut bench,
            "cold_start",
            &[seed.clone(), set.clone()],
            ("val", "id"),
            cold,
        ));
        let axes = [seed, set, ("step", json!(100)), ("subset", json!("hard"))];
        evals.push(evaluation(
            &mut bench,
            "sft/hard",
            &axes,
            ("val", "id"),
            hard,
        ));
    }
    let run = bench.run("report", json!({"gallery": 0}), &[("evals", evals)]);
    assert_eq!(run.summary()["rows"], 12);
    let dir = run.output("report");
    let rows = json_lines(&dir.join("results.jsonl"));
    assert_eq!(
        rows[2],
        json!({"arm": "sft/hard", "axes": {"seed": 0, "set": "val", "step": 100, "subset": "hard"},
                                  "step": 100, "set": "val", "split": "id", "metric": "accuracy", "value": 0.3,
                                  "n": 100, "ci": [0.19999999999999998, 0.4], "stage": "eval"})
    );

    let csv = std::fs::read_to_string(dir.join("results.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "arm,axis.seed,axis.set,axis.step,axis.subset,step,set,split,metric,value,n,ci_low,ci_high,repeats,repeats_of,\
         stage,model,data"
    );
    assert_eq!(lines.len(), 13);
    assert!(
        lines[1].starts_with("cold_start,0,val,,,,val,id,accuracy,0.5,100,0.4,0.6,3,3,eval,,"),
        "{}",
        lines[1]
    );

    let table = std::fs::read_to_string(dir.join("results.md")).unwrap();
    assert!(table.contains("| arm | val |"), "{table}");
    assert!(
        table.contains("| sft/hard seed=0 step=100 | 30.0 ±10.0 |"),
        "{table}"
    );

    let aggregate = read(&dir.join("aggregate.json"));
    let cold = &aggregate["arms"][0];
    assert_eq!(
        (&cold["arm"], &cold["repeats"]),
        (&json!("cold_start"), &json!(3))
    );
    assert!((cold["mean"].as_f64().unwrap() - 0.54).abs() < 1e-12);
    let differences = aggregate["differences"].as_array().unwrap();
    let hard = differences
        .iter()
        .find(|row| row["arm"] == "sft/hard" && row["metric"] == "accuracy")
        .unwrap();
    assert_eq!(
        (&hard["baseline"]["arm"], &hard["pairs"], &hard["wins"]),
        (&json!("cold_start"), &json!(3), &json!(0))
    );
    assert!((hard["mean_difference"].as_f64().unwrap() + 0.2).abs() < 1e-12);
}

#[test]
fn checkpoints_that_no_axis_tells_apart_are_not_taken_for_repeats() {
    let mut bench = Bench::new();
    let evals = [(100, 0.5), (200, 0.7)].map(|(step, value)| {
        let mut input = evaluation(&mut bench, "sft/all", &[], ("val", "id"), value);
        input.label.evaluated = Some(Evaluated {
            step: Some(step),
            ..Evaluated::default()
        });
        input
    });
    let run = bench.run("report", json!({"gallery": 0}), &[("evals", evals.into())]);
    let dir = run.output("report");
    let aggregate = read(&dir.join("aggregate.json"));
    let of = |step: u64| {
        let arms = aggregate["arms"].as_array().unwrap();
        let mut arms = arms
            .iter()
            .filter(|arm| arm["step"] == step && arm["metric"] == "accuracy");
        (arms.next().unwrap()["mean"].clone(), arms.count())
    };
    assert_eq!((of(100), of(200)), ((json!(0.5), 0), (json!(0.7), 0)));
    let table = std::fs::read_to_string(dir.join("results.md")).unwrap();
    assert!(table.contains("| sft/all step=200 | 70.0"), "{table}");
}

#[test]
fn a_study_of_real_artifacts_gives_histogram_filter_and_gallery_twice_the_same() {
    let mut bench = Bench::new();
    let (model, data) = (
        bench.model(0),
        bench.colours("train", 0, 40, |_, name| name.to_owned()),
    );
    let both = |model: &Input| vec![("model", vec![model.clone()]), ("data", vec![data.clone()])];
    let sft = bench.run(
        "sft",
        json!({"steps": 35, "batch_size": 8, "learning_rate": 0.01}),
        &both(&model),
    );
    let model = input("sft", &sft.output("model"));
    let rollouts = bench.run(
        "rollout",
        json!({"n": 4, "max_new_tokens": 7}),
        &both(&model),
    );
    let rollouts = input("rollouts", &rollouts.output("rollouts"));
    let scored = [
        ("rollouts", vec![rollouts.clone()]),
        ("data", vec![data.clone()]),
    ];
    let difficulty = bench.run("difficulty", json!({}), &scored);
    let scores = labelled(
        "difficulty",
        "difficulty",
        &[("seed", json!(0))],
        &difficulty.output("scores"),
    );
    let mut inputs = both(&model);
    inputs.push(("difficulty", vec![scores.clone()]));
    let with = json!({"steps": 3, "prompts_per_step": 8, "generations": 4, "max_new_tokens": 7});
    let grpo = bench.run("grpo", with, &inputs);
    let eval = bench.run("eval", json!({"max_new_tokens": 7}), &both(&model));
    let inputs = [
        ("evals", vec![input("eval", &eval.output("evaluation"))]),
        (
            "logs",
            vec![
                input("sft", &sft.output("log")),
                input("grpo", &grpo.output("log")),
            ],
        ),
        ("rollouts", vec![rollouts]),
        ("difficulty", vec![scores]),
        ("data", vec![data]),
    ];
    let run = bench.run("report", json!({"gallery": 2}), &inputs);
    run.summary();
    let dir = run.output("report");

    let histogram = read(&dir.join("histogram.json"));
    assert_eq!(
        (&histogram[0]["n"], &histogram[0]["source"]["axes"]),
        (&json!(4), &json!({"seed": 0}))
    );
    assert_eq!(histogram[0]["bins"], json!(["easy", "medium", "hard"]));
    let bars = histogram[0]["counts"].as_array().unwrap();
    assert_eq!(
        bars.iter()
            .map(|bar| bar["samples"].as_u64().unwrap())
            .sum::<u64>(),
        40
    );

    let filter = read(&dir.join("implicit_filter.json"));
    assert_eq!(
        filter.as_array().unwrap().len(),
        1,
        "the log of sft has no filter"
    );
    assert_eq!(filter[0]["bins"], json!(["easy", "medium", "hard"]));
    assert_eq!(filter[0]["steps"].as_array().unwrap().len(), 3);
    let mixed = filter[0]["mixed"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&mixed), "{mixed}");

    let gallery = read(&dir.join("gallery.json"));
    let samples: Vec<&Value> = gallery
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|bin| bin["samples"].as_array().unwrap())
        .collect();
    assert!(!samples.is_empty());
    for sample in samples {
        let answers = sample["answers"].as_array().unwrap();
        assert_eq!(
            answers
                .iter()
                .map(|answer| answer["count"].as_u64().unwrap())
                .sum::<u64>(),
            4
        );
        let right = answers
            .iter()
            .find(|answer| answer["text"] == sample["answer"]);
        assert_eq!(
            right.map_or(json!(0), |answer| answer["count"].clone()),
            sample["correct"]
        );
        let image = std::fs::read(dir.join(sample["image"].as_str().unwrap())).unwrap();
        assert!(image.starts_with(b"\x89PNG"));
    }
    assert_eq!(
        bench.run("report", json!({"gallery": 2}), &inputs).files(),
        run.files()
    );
}

#[test]
fn a_report_without_anything_to_report_is_an_empty_table() {
    let mut bench = Bench::new();
    let run = bench.run("report", json!({}), &[]);
    assert_eq!(run.summary()["rows"], 0);
    assert_eq!(read(&run.output("report").join("gallery.json")), json!([]));
}

//! Conversations of a golden set on their way through the stages.

use std::path::Path;

use dcsft_engine::stage::ArtifactType;
use dcsft_stages::data::Dataset;
use dcsft_stages::export::export;
use serde_json::{Value, json};

use super::{Bench, input, json_lines};

/// What the reference trained on, and what came of it.
pub struct Conversations<'a> {
    /// The set's folder, which the paths of images start from.
    pub root: &'a Path,
    /// Samples with `messages` each.
    pub samples: &'a [Value],
    /// The mean loss of all label tokens.
    pub loss: f64,
    /// How many label tokens each sample has.
    pub labels: &'a [Value],
}

/// Imports the conversations, trains on all of them at once, asks the last question of each, and reads back what is
/// exported; `model` has the params of the stage that imports the checkpoint.
pub fn conversations(model: Value, given: &Conversations<'_>) {
    let mut bench = Bench::new();
    let count = given.samples.len();
    let record = |sample: &Value| json!({"messages": sample["messages"]});
    let records: Vec<Value> = given.samples.iter().map(record).collect();
    let list = bench.folder().join("list.json");
    std::fs::write(&list, Value::from(records).to_string()).unwrap();
    let params = json!({"path": list, "image_root": given.root, "images": "optional"});
    let set = bench.run("dataset", params, &[]);
    assert_eq!(set.summary()["kept"], count);
    let model = bench.run("model", model, &[]);
    model.summary();
    let model = input("model", &model.output("model"));
    let wired = [
        ("model", vec![model]),
        ("data", vec![input("data", &set.output("data"))]),
    ];

    let batch = json!({"steps": 1, "batch_size": count, "learning_rate": 1e-3});
    let run = bench.run("sft", batch, &wired);
    run.summary();
    let log = json_lines(&run.output("log").join("loss.jsonl"));
    let loss = log[0]["loss"].as_f64().unwrap();
    assert!(
        (loss - given.loss).abs() < 5e-5,
        "{loss} and {}",
        given.loss
    );
    let labels: u64 = given.labels.iter().filter_map(Value::as_u64).sum();
    assert_eq!(log[0]["tokens"], labels, "every answer's tokens");

    // The last question is asked, after all that was said.
    let asked = bench.run("eval", json!({"max_new_tokens": 4}), &wired);
    assert_eq!(asked.summary()["left_out"]["count"], 0);
    let drawn = bench.run("rollout", json!({"n": 2, "max_new_tokens": 4}), &wired);
    assert_eq!(drawn.summary()["answers"], 2 * count);
    let params = json!({"steps": 1, "prompts_per_step": count, "generations": 2, "max_new_tokens": 4,
                        "learning_rate": 1e-3});
    let learnt = bench.run("grpo", params, &wired);
    assert_eq!(learnt.summary()["samples"], count);

    // What is exported is read back as the same samples.
    let files = bench.folder().join("set");
    export(
        ArtifactType::Dataset,
        &set.output("data"),
        &files,
        None,
        None,
    )
    .unwrap();
    let params = json!({"path": files.join("data.jsonl"), "images": "optional"});
    let again = bench.run("dataset", params, &[]);
    let ids = |dir: &Path| -> Vec<String> {
        let data = Dataset::open(dir).unwrap();
        let samples = data.samples().iter();
        samples.map(|sample| sample.id.clone()).collect()
    };
    assert_eq!(ids(&again.output("data")), ids(&set.output("data")));
}

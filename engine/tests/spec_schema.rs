//! The JSON Schema of specs agrees with what loads.

#[path = "spec/kinds.rs"]
mod kinds;

use dcsft_engine::schema::spec_schema;
use kinds::{load_files, load_text};
use serde_json::{Value, json};

fn validator() -> jsonschema::Validator {
    let schema = spec_schema(&kinds::registry());
    jsonschema::draft202012::meta::validate(&schema).expect("a schema of draft 2020-12");
    jsonschema::validator_for(&schema).expect("a usable schema")
}

fn complaints(spec: &Value) -> Vec<String> {
    validator()
        .iter_errors(spec)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn full() -> Value {
    json!({
        "dcsft": 1,
        "name": "full",
        "description": "words",
        "matrix": {"seed": [0, 1], "k": {"range": [1, "${vars.three}"]}, "exclude": [{"seed": 0, "k": 1}]},
        "vars": {"steps": 100, "save": 50, "three": 3, "names": ["a", "b"], "lora": {"rank": 4, "targets": ["vision"]}},
        "stages": {
            "world": {"uses": "world", "with": {"seed": "${matrix.seed}", "size": "${matrix.k}"}},
            "sft": {
                "uses": "train",
                "matrix": {"lr": {"logspace": [1e-4, 1e-2, 3]}, "which": ["vision", "decoder"]},
                "arm": "sft/${matrix.lr}",
                "resources": {"gpus": 1, "threads": 2, "time": "2h", "memory": "16GiB"},
                "timeout": "90m",
                "retries": 1,
                "with": {
                    "model": null,
                    "data": "${world.easy+medium}",
                    "steps": "${vars.steps}",
                    "lr": "${matrix.lr}",
                    "lora": {"rank": 2, "targets": ["${matrix.which}"]},
                    "schedule": "cosine"
                }
            },
            "few": {"uses": "eval", "shards": "auto", "with": {"model": "${sft}", "data": "${world}"}},
            "whole": {"uses": "train", "with": {"data": "${world}", "steps": 1, "lora": "${vars.lora}"}},
            "eval": {"uses": "eval", "shards": 4, "with": {"model": "${sft}", "data": "${world}"}},
            "curve": {
                "uses": "train",
                "matrix": {"step": {"every": ["${vars.save}", "${vars.steps}"]}, "name": "${vars.names}"},
                "with": {"data": "${world}", "steps": "${matrix.step}", "note": "${matrix.name}"}
            },
            "report": {"uses": "report", "with": {"evals": ["${eval[*]}"], "logs": "${sft[*].log}"}}
        }
    })
}

#[test]
fn the_schema_accepts_what_loads() {
    let spec = full();
    if let Err(message) = load_text(&spec.to_string()) {
        panic!("{message}");
    }
    assert_eq!(complaints(&spec), Vec::<String>::new());
}

#[test]
fn the_schema_accepts_a_spec_that_extends_another_with_less() {
    let child = json!({
        "extends": "full.yaml",
        "name": "child",
        "stages": {"sft": {"with": {"steps": 7, "schedule": null}}, "whole": null, "more": {"uses": "world"}}
    });
    let files = [
        ("child.yaml", child.to_string()),
        ("full.yaml", full().to_string()),
    ];
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    if let Err(message) = load_files(&files, &[]) {
        panic!("{message}");
    }
    assert_eq!(complaints(&child), Vec::<String>::new());
}

#[test]
fn the_schema_checks_a_stage_whose_kind_stands_in_the_extended_spec() {
    let child = |with: Value| json!({"extends": "full.yaml", "stages": {"sft": {"with": with}}});
    assert_eq!(
        complaints(&child(json!({"steps": 7}))),
        Vec::<String>::new()
    );
    assert!(!complaints(&child(json!({"stepz": 7}))).is_empty());
    assert!(!complaints(&child(json!({"steps": "seven"}))).is_empty());
}

#[test]
fn the_schema_refuses_what_does_not_load() {
    let mistakes: [(&str, Value); 15] = [
        ("/stages/sft/with/lr", json!("fast")),
        ("/stages/sft/with/stepz", json!(1)),
        ("/stages/sft/with/lora/rank", json!(0)),
        ("/stages/sft/with/lora/ranks", json!(1)),
        ("/stages/sft/with/schedule", json!("linear")),
        ("/stages/sft/with/data", json!("world")),
        ("/stages/sft/uses", json!("trian")),
        ("/stages/sft/resources/gpu", json!(1)),
        ("/stages/sft/retries", json!(-1)),
        ("/stages/eval/shards", json!(0)),
        ("/stages/eval/shards", json!(1001)),
        ("/stages/eval/shards", json!("many")),
        ("/stages/eval/with", json!({"data": "${world}"})),
        ("/matrix/seed", json!(3)),
        ("/stagse", json!({})),
    ];
    for (pointer, value) in mistakes {
        let mut spec = full();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        spec.pointer_mut(parent).expect("a parent")[key] = value;
        assert!(load_text(&spec.to_string()).is_err(), "{pointer} loads");
        assert!(
            !complaints(&spec).is_empty(),
            "the schema accepts {pointer}"
        );
    }
}

#[test]
fn the_schema_carries_the_documentation_of_kinds_and_params() {
    let schema = spec_schema(&kinds::registry());
    let with = &schema["$defs"]["with.train"];
    assert_eq!(with["description"], "Trains.");
    assert_eq!(with["properties"]["lr"]["description"], "Learning rate.");
    assert_eq!(with["properties"]["lr"]["default"], json!(1e-3));
    assert_eq!(
        with["properties"]["data"]["description"],
        "What is trained on."
    );
}

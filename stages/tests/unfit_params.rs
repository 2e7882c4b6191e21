//! Params that a stage's model does not allow: what the stage fails on is known before anything has run.

mod common;
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use common::golden;
use dcsft_engine::stage::{Fact, Forecast, Input, Prospect};
use serde_json::{Value, json};
use support::{Bench, input, small_model};

/// What is expected of a stage whose model is as `model` tells.
fn forecast(kind: &str, with: &Value, model: Option<&Fact>) -> Forecast {
    let registry = dcsft_stages::registry();
    let kind = registry.get(kind).unwrap();
    let params = kind.resolve(with, Path::new("")).unwrap().params;
    let prospect = Prospect {
        device: "cpu".into(),
        memory: true,
        threads: 1,
        inputs: BTreeMap::from([("model".to_owned(), vec![model.cloned()])]),
        ..Prospect::default()
    };
    kind.forecast(&params, &prospect)
}

fn fact(forecast: &Forecast) -> Fact {
    forecast.facts["model"].clone()
}

/// The stage has one problem, in this field, and fails on it.
fn refused(
    bench: &mut Bench,
    (kind, field): (&str, &str),
    with: &Value,
    model: &Fact,
    inputs: &[(&str, Vec<Input>)],
) {
    let problems = forecast(kind, with, Some(model)).problems;
    let [problem] = &problems[..] else {
        panic!("{kind} with {with}: {problems:?}");
    };
    assert_eq!(problem.path.to_string(), field, "{kind}: {problem:?}");
    let failure = bench.run(kind, with.clone(), inputs).failure();
    assert!(
        failure.contains(&problem.message),
        "{kind}: {failure}\n{}",
        problem.message
    );
}

fn training(kind: &str, more: &Value) -> Value {
    let mut params = match kind {
        "sft" => json!({"steps": 1, "batch_size": 2, "learning_rate": 1e-3}),
        _ => json!({
            "steps": 1, "prompts_per_step": 2, "generations": 2, "max_new_tokens": 4, "learning_rate": 1e-3,
        }),
    };
    let more = more.as_object().unwrap().clone();
    params.as_object_mut().unwrap().extend(more);
    params
}

#[test]
fn what_a_micro_model_does_not_allow() {
    let mut bench = Bench::new();
    let model = bench.model(0);
    let data = bench.colours("train", 0, 4, |_, name| name.to_owned());
    let known = fact(&forecast("model", &small_model(0), None));
    let inputs = [("model", vec![model]), ("data", vec![data])];
    let lora = |names: &str| json!({"lora": {"rank": 2, "targets": ["decoder"], "target_modules": [names]}});
    for kind in ["sft", "grpo"] {
        for (field, more) in [
            ("lora.target_modules", lora("nothing")),
            (
                "freeze",
                json!({"freeze": ["vision", "projector", "decoder"]}),
            ),
            (
                "gradient_checkpointing",
                json!({"gradient_checkpointing": true}),
            ),
            ("min_pixels", json!({"min_pixels": 784})),
            ("max_pixels", json!({"max_pixels": 784})),
        ] {
            let with = training(kind, &more);
            refused(&mut bench, (kind, field), &with, &known, &inputs);
        }
        for more in [json!({}), lora("qkv"), json!({"freeze": ["vision"]})] {
            let fine = forecast(kind, &training(kind, &more), Some(&known));
            assert_eq!(fine.problems, [], "{kind} with {more}");
            assert!(fine.memory.is_some());
        }
    }
    for (kind, with) in [
        (
            "rollout",
            json!({"n": 2, "max_new_tokens": 4, "max_pixels": 784}),
        ),
        ("eval", json!({"max_new_tokens": 4, "max_pixels": 784})),
    ] {
        refused(&mut bench, (kind, "max_pixels"), &with, &known, &inputs);
    }
    // Of a model that is not known nothing is said.
    let unknown = forecast("sft", &training("sft", &lora("nothing")), None);
    assert_eq!(unknown.problems, []);
}

#[test]
fn golden_what_a_quantised_checkpoint_does_not_allow() {
    let mut bench = Bench::new();
    let Some(checkpoint) = golden("ckpt") else {
        return;
    };
    let data = bench.colours("train", 0, 4, |_, _| "cat".to_owned());
    let made = |bench: &mut Bench, quantize: &str| {
        let with = json!({"kind": "auto", "path": checkpoint, "quantize": quantize});
        let run = bench.run("model", with.clone(), &[]);
        run.summary();
        (
            input("model", &run.output("model")),
            fact(&forecast("model", &with, None)),
        )
    };
    let lora = |rank: usize| json!({"lora": {"rank": rank, "alpha": 8}});
    let (base, known) = made(&mut bench, "8bit");
    let inputs = |model: &Input| [("model", vec![model.clone()]), ("data", vec![data.clone()])];
    for kind in ["sft", "grpo"] {
        let whole = training(kind, &json!({}));
        refused(&mut bench, (kind, ""), &whole, &known, &inputs(&base));
        let small = training(kind, &json!({"lora": {"rank": 2}, "max_pixels": 1}));
        refused(
            &mut bench,
            (kind, "max_pixels"),
            &small,
            &known,
            &inputs(&base),
        );
        assert_eq!(
            forecast(kind, &training(kind, &lora(4)), Some(&known)).problems,
            []
        );
    }

    // Its adapters are trained further, and others are not.
    let with = training("sft", &lora(4));
    let further = fact(&forecast("sft", &with, Some(&known)));
    let run = bench.run("sft", with, &inputs(&base));
    run.summary();
    let trained = input("sft", &run.output("model"));
    let other = training("grpo", &lora(8));
    refused(
        &mut bench,
        ("grpo", "lora"),
        &other,
        &further,
        &inputs(&trained),
    );
    assert_eq!(
        forecast("grpo", &training("grpo", &lora(4)), Some(&further)).problems,
        []
    );

    // Those of a whole model are merged, and any may follow.
    let (_, whole) = made(&mut bench, "none");
    let further = fact(&forecast("sft", &training("sft", &lora(4)), Some(&whole)));
    for more in [lora(8), json!({})] {
        assert_eq!(
            forecast("grpo", &training("grpo", &more), Some(&further)).problems,
            []
        );
    }
}

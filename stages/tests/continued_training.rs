//! Longer runs that go on from shorter ones, of `sft` and of `grpo`: what comes out is what one run would have given.

mod support;

use std::collections::BTreeMap;

use dcsft_engine::stage::{Cost, Event, Input, Relative, StageError};
use serde_json::{Value, json};
use support::{Bench, How, Run};

const SECONDS: f64 = 40.0;

struct Study {
    bench: Bench,
    kind: &'static str,
    inputs: [(&'static str, Vec<Input>); 2],
    /// Params besides the lengths.
    with: Value,
}

fn merged(with: &Value, more: Value) -> Value {
    let mut with = with.clone();
    let fields = with.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    with
}

/// Both trainers, with adapters and dropout where there is any.
fn studies() -> Vec<Study> {
    let common = json!({"learning_rate": 0.003, "schedule": "constant", "warmup_steps": 2, "keep_state": true,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["vision", "projector", "decoder"]}});
    [
        ("sft", json!({"batch_size": 8})),
        (
            "grpo",
            json!({"prompts_per_step": 4, "generations": 2, "max_new_tokens": 5}),
        ),
    ]
    .map(|(kind, more)| {
        let mut bench = Bench::new();
        let model = bench.model(0);
        let data = bench.colours("train", 0, 20, |_, name| name.to_owned());
        Study {
            bench,
            kind,
            inputs: [("model", vec![model]), ("data", vec![data])],
            with: merged(&common, more),
        }
    })
    .into()
}

impl Study {
    fn run(&mut self, steps: usize, save_steps: usize, how: How) -> Run {
        let lengths = json!({"steps": steps, "save_steps": save_steps});
        let with = merged(&self.with, lengths);
        self.bench.run_as(self.kind, with, &self.inputs, how)
    }
}

/// A finished run as a later one sees it.
fn relative(run: &Run, outputs: &[&str]) -> Relative {
    run.summary();
    let outputs = outputs
        .iter()
        .map(|name| ((*name).to_owned(), run.output(name)));
    Relative {
        label: "earlier".into(),
        cost: Cost {
            seconds: SECONDS,
            cpu_seconds: None,
        },
        outputs: outputs.collect(),
    }
}

fn after(relatives: Vec<Relative>) -> How {
    How {
        relatives,
        ..How::default()
    }
}

fn said(run: &Run, text: &str) -> bool {
    let said = |event: &Event| matches!(event, Event::Log { message } if message.contains(text));
    run.events.iter().any(said)
}

#[test]
fn a_longer_run_goes_on_from_a_shorter_one_and_comes_out_the_same() {
    for mut study in studies() {
        let short = study.run(4, 2, How::default());
        let shorter = study.run(2, 2, How::default());
        let fresh = study.run(7, 2, How::default());
        assert_eq!(fresh.saved_seconds, 0.0);
        let relatives = vec![
            relative(&shorter, &["model", "step-2", "log", "state"]),
            relative(&short, &["model", "step-2", "step-4", "log", "state"]),
        ];
        let long = study.run(7, 2, after(relatives));
        assert!(
            said(&long, "going on from earlier, after step 4"),
            "{:?}",
            long.events
        );
        assert_eq!(long.files(), fresh.files());
        assert_eq!(long.summary(), fresh.summary());
        assert_eq!(long.saved_seconds, SECONDS);
    }
}

#[test]
fn an_interrupt_after_taking_over_changes_nothing() {
    for mut study in studies() {
        let short = study.run(4, 0, How::default());
        let fresh = study.run(8, 0, How::default());
        fresh.summary();
        let state = study.bench.folder();
        let how = |interrupt_after, relatives| How {
            interrupt_after,
            state: Some(state.clone()),
            relatives,
            ..How::default()
        };
        let relatives = vec![relative(&short, &["model", "step-4", "log", "state"])];
        let stopped = study.run(8, 0, how(Some(1), relatives));
        assert!(matches!(stopped.result, Err(StageError::Interrupted)));
        // The relative may be gone meanwhile.
        let resumed = study.run(8, 0, how(None, Vec::new()));
        assert!(
            said(&resumed, "going on after step 5 of 8"),
            "{:?}",
            resumed.events
        );
        assert_eq!(resumed.files(), fresh.files());
        assert_eq!(resumed.saved_seconds, SECONDS);
    }
}

#[test]
fn a_relative_that_is_too_long_lacks_a_checkpoint_or_is_damaged_is_left_alone() {
    for mut study in studies() {
        let long = study.run(6, 0, How::default());
        let too_long = relative(&long, &["model", "step-6", "log", "state"]);
        let fresh = study.run(5, 2, How::default());
        let short = study.run(3, 0, How::default());
        // This one was kept at its end only, and the run needs the model after step 2.
        let no_checkpoint = relative(&short, &["model", "step-3", "log", "state"]);
        let two = study.run(2, 0, How::default());
        let mut damaged = relative(&two, &["model", "step-2", "log"]);
        let broken = study.bench.folder();
        std::fs::write(broken.join("length.json"), r#"{"steps": 2}"#).unwrap();
        std::fs::write(broken.join(dcsft_vlm::train::STATE_FILE), "no state").unwrap();
        damaged.outputs.insert("state".into(), broken);
        let run = study.run(5, 2, after(vec![too_long, no_checkpoint, damaged]));
        assert!(
            said(&run, "earlier cannot be continued: "),
            "{:?}",
            run.events
        );
        assert_eq!(run.files(), fresh.files());
        assert_eq!(run.saved_seconds, 0.0);
    }
}

#[test]
fn only_lengths_may_differ_and_only_where_the_rate_does_not_depend_on_them() {
    let registry = dcsft_stages::registry();
    for study in studies() {
        let kind = registry.get(study.kind).unwrap();
        let family = |more: Value| {
            let with = merged(&merged(&study.with, json!({"steps": 4})), more);
            let params = kind.resolve(&with, std::path::Path::new(".")).unwrap();
            kind.family(&params.params)
        };
        let plain = family(json!({})).unwrap();
        for same in [
            json!({"steps": 9}),
            json!({"save_steps": 2}),
            json!({"steps": null, "epochs": 2.0}),
        ] {
            assert_eq!(family(same.clone()).as_ref(), Some(&plain), "{same}");
        }
        for other in [
            json!({"seed": 1}),
            json!({"learning_rate": 1e-4}),
            json!({"warmup_steps": 3}),
        ] {
            assert_ne!(family(other.clone()).unwrap(), plain, "{other}");
        }
        assert_eq!(family(json!({"keep_state": false})), None);
        for paced in [
            json!({"schedule": "cosine"}),
            json!({"warmup_steps": null, "warmup_ratio": 0.1}),
        ] {
            let with = merged(&study.with, paced.clone());
            let problems = kind.resolve(&with, std::path::Path::new(".")).unwrap_err();
            let problem: BTreeMap<_, _> = problems
                .iter()
                .map(|problem| (problem.path.join("."), problem.message.as_str()))
                .collect();
            assert!(
                problem["keep_state"].starts_with("needs `schedule: constant`"),
                "{paced}"
            );
        }
    }
}

#[test]
fn params_without_it_have_the_keys_that_they_had() {
    let registry = dcsft_stages::registry();
    for kind in ["sft", "grpo"] {
        let params = registry
            .get(kind)
            .unwrap()
            .resolve(&json!({"steps": 4}), std::path::Path::new("."))
            .unwrap();
        assert_eq!(params.params.value().get("keep_state"), None);
        assert!(params.outputs.iter().all(|output| output.name != "state"));
    }
}

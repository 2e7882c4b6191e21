//! `rollout` and `eval` in shards: however they are cut, and whatever a shard leaves behind, the same bytes.

mod support;

use std::path::PathBuf;

use dcsft_engine::stage::{Event, Input, Shard};
use serde_json::{Value, json};
use support::{Bench, How, Run};

const SAMPLES: usize = 20;

/// A stage that asks a model.
struct Asked {
    kind: &'static str,
    with: Value,
    inputs: [(&'static str, Vec<Input>); 2],
}

impl Asked {
    fn run(&self, bench: &mut Bench, how: How) -> Run {
        bench.run_as(self.kind, self.with.clone(), &self.inputs, how)
    }

    /// Runs all shards of a cut. Returns their state folders.
    fn shards(&self, bench: &mut Bench, of: u32) -> Vec<PathBuf> {
        let shards = (1..=of).map(|index| Shard { index, of });
        shards
            .map(|shard| {
                let state = bench.folder();
                let run = self.run(
                    bench,
                    How {
                        shard: Some(shard),
                        state: Some(state.clone()),
                        ..How::default()
                    },
                );
                run.summary();
                state
            })
            .collect()
    }

    fn join(&self, bench: &mut Bench, parts: Vec<PathBuf>) -> Run {
        self.run(
            bench,
            How {
                parts,
                ..How::default()
            },
        )
    }
}

/// A rollout, and an evaluation of which samples are left out.
fn stages(bench: &mut Bench) -> [Asked; 2] {
    let model = bench.model(0);
    let data = bench.colours("train", 0, SAMPLES, |_, name| name.to_owned());
    let boxes = bench.colours("val", 1, SAMPLES, |index, _| {
        match index % 6 {
            4 => "no box",
            _ => "[0, 0, 4, 4]",
        }
        .to_owned()
    });
    let inputs = |data: &Input| [("model", vec![model.clone()]), ("data", vec![data.clone()])];
    [
        Asked {
            kind: "rollout",
            with: json!({"n": 3, "temperature": 0.9, "max_new_tokens": 7, "seed": 5}),
            inputs: inputs(&data),
        },
        Asked {
            kind: "eval",
            with: json!({"max_new_tokens": 7, "reward": "iou", "on_error": "drop"}),
            inputs: inputs(&boxes),
        },
    ]
}

fn logs(run: &Run) -> Vec<&str> {
    let logs = run.events.iter().filter_map(|event| match event {
        Event::Log { message } => Some(message.as_str()),
        _ => None,
    });
    logs.collect()
}

#[test]
fn however_it_is_cut_the_bytes_are_the_same_and_nothing_is_asked_twice() {
    let mut bench = Bench::new();
    for stage in stages(&mut bench) {
        let whole = stage.join(&mut bench, Vec::new());
        for of in [1, 2, 3, 7, SAMPLES as u32 + 5] {
            let parts = stage.shards(&mut bench, of);
            let joined = stage.join(&mut bench, parts);
            assert_eq!(joined.files(), whole.files(), "{} in {of}", stage.kind);
            assert_eq!(joined.summary(), whole.summary(), "{} in {of}", stage.kind);
            let known = format!("{SAMPLES} of {SAMPLES} samples have their answers already");
            assert!(
                logs(&joined).contains(&known.as_str()),
                "{:?}",
                logs(&joined)
            );
        }
    }
}

#[test]
fn what_a_shard_has_lost_is_asked_again() {
    let mut bench = Bench::new();
    for stage in stages(&mut bench) {
        let whole = stage.join(&mut bench, Vec::new());
        let parts = stage.shards(&mut bench, 3);
        std::fs::remove_dir_all(&parts[0]).unwrap();
        let file = parts[1].join("answers.jsonl");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 10]).unwrap();
        let file = parts[2].join("answers.jsonl");
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(&file, bytes).unwrap();
        let joined = stage.join(&mut bench, parts);
        assert_eq!(joined.files(), whole.files(), "{}", stage.kind);
        assert_eq!(joined.summary(), whole.summary(), "{}", stage.kind);
    }
}

#[test]
fn a_shard_takes_what_another_cut_has_answered() {
    let mut bench = Bench::new();
    let [rollout, _] = stages(&mut bench);
    let parts = rollout.shards(&mut bench, 2);
    let run = rollout.run(
        &mut bench,
        How {
            shard: Some(Shard { index: 2, of: 4 }),
            parts: parts[..1].to_vec(),
            ..How::default()
        },
    );
    run.summary();
    assert!(logs(&run).contains(&"5 of 5 samples have their answers already"));
}

#[test]
fn a_sample_that_may_not_be_left_out_fails_its_shard() {
    let mut bench = Bench::new();
    let [_, mut eval] = stages(&mut bench);
    eval.with["on_error"] = json!("fail");
    let whole = eval.join(&mut bench, Vec::new()).failure();
    let mut shard = |index| {
        let how = How {
            shard: Some(Shard { index, of: 5 }),
            ..How::default()
        };
        eval.run(&mut bench, how)
    };
    // Rows 4, 10 and 16 are no boxes.
    assert_eq!(shard(2).failure(), whole);
    shard(1).summary();
}

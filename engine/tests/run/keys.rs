//! Keys: what they depend on, and that they do not change by accident.

use std::collections::BTreeMap;

use dcsft_cache::Digest;
use dcsft_engine::key::{self, FilesIdentity, InputIdentity, KeyPreimage};
use dcsft_engine::stage::Label;
use dcsft_engine::stage::Params;
use dcsft_engine::study::{ExecutionOptions, Resources, Shards};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::kinds::numerics;
use crate::support::Bench;

fn digest(text: &str) -> Digest {
    Digest::of_bytes(text.as_bytes())
}

fn plain() -> KeyPreimage {
    KeyPreimage {
        format: key::FORMAT,
        kind: "shapes".into(),
        version: 1,
        params: Params::of(&json!({"train": 100, "seed": 0})),
        files: BTreeMap::new(),
        inputs: BTreeMap::new(),
        numerics: None,
    }
}

fn full() -> KeyPreimage {
    let label = Label {
        stage: "base".into(),
        output: "model".into(),
        axes: BTreeMap::from([("seed".into(), json!(3))]),
        arm: "cold_start".into(),
        evaluated: None,
    };
    KeyPreimage {
        format: key::FORMAT,
        kind: "sft".into(),
        version: 2,
        params: Params::of(
            &json!({"learning_rate": 1e-4, "lora": {"rank": 8, "targets": ["decoder"]}, "root": null}),
        ),
        files: BTreeMap::from([(
            "root".into(),
            FilesIdentity {
                count: 2,
                digest: digest("files"),
            },
        )]),
        inputs: BTreeMap::from([
            (
                "data".into(),
                vec![InputIdentity {
                    digest: digest("data"),
                    label: None,
                }],
            ),
            (
                "model".into(),
                vec![InputIdentity {
                    digest: digest("model"),
                    label: Some(label),
                }],
            ),
        ]),
        numerics: Some(numerics("cpu")),
    }
}

/// If this fails, every result in every user's cache would be computed again. Change it only if that is meant.
#[test]
fn keys_are_the_golden_ones() {
    assert_eq!(plain().digest().unwrap().to_string(), GOLDEN_PLAIN);
    assert_eq!(full().digest().unwrap().to_string(), GOLDEN_FULL);
}

const GOLDEN_PLAIN: &str = "91485eff7c7a55c319e385fcfc1b8e8c20bf999ff61c050fc51d86c86e8fbc40";
const GOLDEN_FULL: &str = "61478a1b6a7d43abc0d2eb31e8e4906d9afd4cbbb7d68a49c2565ba797cfbfce";

#[test]
fn a_preimage_survives_its_record() {
    let text = serde_json::to_string(&full()).unwrap();
    let back: KeyPreimage = serde_json::from_str(&text).unwrap();
    assert_eq!(back, full());
    assert_eq!(back.digest().unwrap(), full().digest().unwrap());
}

/// Changes params in place.
fn edit(preimage: &mut KeyPreimage, change: impl FnOnce(&mut Value)) {
    let mut params = preimage.params.value();
    change(&mut params);
    preimage.params = Params::of(&params);
}

/// One change of one identity value.
fn change() -> impl Strategy<Value = fn(&mut KeyPreimage, &str, u32)> {
    let all: Vec<fn(&mut KeyPreimage, &str, u32)> = vec![
        |it, _, n| it.format += n,
        |it, text, _| it.kind += text,
        |it, _, n| it.version += n,
        |it, _, n| {
            edit(it, |params| {
                params["learning_rate"] = json!(1e-4 + f64::from(n))
            })
        },
        |it, text, n| edit(it, |params| params[text] = json!(n)),
        |it, text, _| {
            edit(it, |params| {
                params["lora"]["targets"] = json!(["decoder", text])
            })
        },
        |it, text, _| {
            edit(it, |params| {
                params["lora"]["targets"][0] = json!(format!("decoder{text}"))
            })
        },
        |it, _, n| edit(it, |params| params["lora"]["rank"] = json!(8 + n)),
        |it, _, _| edit(it, |params| params["lora"]["rank"] = json!(8.0)),
        |it, _, _| edit(it, |params| params["lora"]["rank"] = json!("8")),
        |it, _, n| it.files.get_mut("root").unwrap().count += n as usize,
        |it, text, _| it.files.get_mut("root").unwrap().digest = digest(text),
        |it, text, n| {
            it.files.insert(
                text.into(),
                FilesIdentity {
                    count: n as usize,
                    digest: digest(""),
                },
            );
        },
        |it, text, _| it.inputs.get_mut("data").unwrap()[0].digest = digest(text),
        |it, text, _| {
            it.inputs.get_mut("data").unwrap().push(InputIdentity {
                digest: digest(text),
                label: None,
            })
        },
        |it, text, _| {
            it.inputs.insert(text.into(), vec![]);
        },
        |it, text, _| {
            it.inputs.get_mut("model").unwrap()[0]
                .label
                .as_mut()
                .unwrap()
                .stage += text
        },
        |it, text, _| {
            it.inputs.get_mut("model").unwrap()[0]
                .label
                .as_mut()
                .unwrap()
                .arm += text
        },
        |it, text, _| {
            it.inputs.get_mut("model").unwrap()[0]
                .label
                .as_mut()
                .unwrap()
                .output += text
        },
        |it, _, n| {
            let label = it.inputs.get_mut("model").unwrap()[0]
                .label
                .as_mut()
                .unwrap();
            label.axes.insert("seed".into(), json!(3 + n));
        },
        |it, _, _| it.inputs.get_mut("model").unwrap()[0].label = None,
        |it, _, _| it.numerics = None,
        |it, text, _| it.numerics.as_mut().unwrap().backend += text,
        |it, text, _| it.numerics.as_mut().unwrap().dtype += text,
    ];
    proptest::sample::select(all)
}

proptest! {
    #[test]
    fn any_change_of_identity_changes_the_key(change in change(), text in "[a-z]{1,8}", n in 1_u32..100) {
        prop_assume!(!["root", "lora", "data", "model", "learning_rate"].contains(&text.as_str()));
        let mut changed = full();
        change(&mut changed, &text, n);
        prop_assume!(changed != full());
        prop_assert_ne!(changed.digest().unwrap(), full().digest().unwrap());
    }

    #[test]
    fn no_execution_setting_changes_a_key(
        gpus in 0_u32..8,
        threads in proptest::option::of(1_usize..64),
        time in proptest::option::of(1.0_f64..1e6),
        timeout in proptest::option::of(1.0_f64..1e6),
        retries in 0_u32..10,
        shards in proptest::option::of(1_u32..=Shards::MOST),
    ) {
        let bench = bench();
        let study = |execution: ExecutionOptions| {
            bench
                .study()
                .stage("a", "concat", json!({"text": "one"}), &[])
                .with_execution(|slot| *slot = execution)
                .build()
        };
        let resources = Resources { gpus, threads, time, memory: Some(1 << 30), ..Resources::default() };
        let shards = shards.map_or(Shards::Auto, Shards::Count);
        let changed = study(ExecutionOptions { resources, timeout, retries, shards });
        let key = |study| bench.plan(study).nodes[0].state.key().unwrap();
        prop_assert_eq!(key(&changed), key(&study(ExecutionOptions::default())));
    }

    #[test]
    fn the_order_of_params_does_not_matter(values in proptest::collection::btree_map("[a-z]{1,6}", any::<i64>(), 1..8)) {
        let forward: serde_json::Map<String, Value> =
            values.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let backward: serde_json::Map<String, Value> =
            values.iter().rev().map(|(name, value)| (name.clone(), json!(value))).collect();
        let key = |params| KeyPreimage { params: Params::of(&Value::Object(params)), ..plain() }.digest().unwrap();
        prop_assert_eq!(key(forward), key(backward));
    }
}

/// One cache for all cases: nothing is run in it.
fn bench() -> &'static Bench {
    static BENCH: std::sync::OnceLock<Bench> = std::sync::OnceLock::new();
    BENCH.get_or_init(Bench::new)
}

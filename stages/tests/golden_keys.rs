//! The key of every kind's defaults. A key that changes makes every user compute every such result again, so it changes
//! on purpose or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dcsft_cache::Digest;
use dcsft_engine::key::{self, FilesIdentity, InputIdentity, KeyPreimage};
use dcsft_engine::stage::Params;
use dcsft_engine::stage::{Kind, Label};
use serde_json::{Value, json};

/// The least that each kind has to be told, and the key that comes of it.
const GOLDEN: [(&str, &str, &str); 11] = [
    (
        "command",
        r#"{"argv": ["true"], "outputs": {"out": "files"}}"#,
        "86f6b2efdfe6f1b09a797bbbcd6b6439b0f76e30489be27c30e73c142fb5e76e",
    ),
    (
        "dataset",
        r#"{"path": "list.json"}"#,
        "5daf47e209ce2ad5ddf8b39b1c88bdd78a022429bee31e1d400fd961bccdb395",
    ),
    (
        "difficulty",
        "{}",
        "b4adc28063d92ddf726ead521508c8c6b3b885c7bdbcbae9e02e61707842478f",
    ),
    (
        "eval",
        "{}",
        "952ee2a386c1559b8160e9ad43937ae428112f8eab96fb878eaa16fd0ca26352",
    ),
    (
        "grpo",
        r#"{"steps": 10}"#,
        "eb669c4358bbc62e5ce0b82350edd9c794ec57ee5e679d58b446bc1cb2704a61",
    ),
    (
        "import",
        "{}",
        "97d8c2df81b591d9ba2716571e9702fe60dd9a8d2f1aa56c71b8a1cc32ea22e0",
    ),
    (
        "model",
        r#"{"kind": "micro"}"#,
        "21565dd4a3902de505848141f128ec0c3c1680c6312b79e221a353b9a4020ee4",
    ),
    (
        "report",
        "{}",
        "93d701527f2891f557c7d81c9aa7967589412defebd6de24781a32403f7efc79",
    ),
    (
        "rollout",
        "{}",
        "dc9adb816c10da8acb4c3948d4ef7412eadfa55f676714e98e0bdcfd0980fd66",
    ),
    (
        "sft",
        r#"{"steps": 10}"#,
        "dca2b691d401111bdde32eb3decd981829a666973865486f4c14fae038a6c2a3",
    ),
    (
        "shapes",
        "{}",
        "e81b0ce9eeae528ed304e50877a10615ae45445ec1ce8f3e48e22a1d66659501",
    ),
];

const LIST: &str = r#"[{"problem": "What?", "solution": "cat", "image": "a.png"}]"#;

/// A folder with the files that the params above name.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("list.json"), LIST).unwrap();
    std::fs::write(dir.path().join("a.png"), "").unwrap();
    dir
}

fn preimage(kind: &dyn Kind, with: &Value, root: &Path) -> KeyPreimage {
    let resolved = kind
        .resolve(with, root)
        .unwrap_or_else(|problems| panic!("{}: {problems:?}", kind.decl().name));
    let mut params = resolved.params.value();
    let mut files = BTreeMap::new();
    for file in &resolved.files {
        params
            .as_object_mut()
            .unwrap()
            .shift_remove(&file.field.to_string());
        let identity = FilesIdentity {
            count: 1,
            digest: Digest::of_bytes(file.field.to_string().as_bytes()),
        };
        files.insert(file.field.to_string(), identity);
    }
    let label = |name: &str| Label {
        stage: name.into(),
        output: "output".into(),
        axes: BTreeMap::from([("seed".into(), json!(0))]),
        arm: name.into(),
        evaluated: None,
    };
    let inputs = kind.decl().inputs.iter().map(|input| {
        let identity = InputIdentity {
            digest: Digest::of_bytes(input.name.as_bytes()),
            label: kind.decl().labelled.then(|| label(input.name)),
        };
        (input.name.to_owned(), vec![identity])
    });
    KeyPreimage {
        format: key::FORMAT,
        kind: kind.decl().name.to_owned(),
        version: kind.decl().version,
        params: Params::of(&params),
        files,
        inputs: inputs.collect(),
        numerics: kind.decl().numeric.then(|| dcsft_stages::numerics("cpu")),
    }
}

/// If this fails, users' results of that kind would be computed again. Change it only if that is meant, and say so in the
/// changelog.
#[test]
fn keys_of_every_kinds_defaults_are_the_golden_ones() {
    let registry = dcsft_stages::registry();
    let root = folder();
    let mut changed = Vec::new();
    for (name, with, golden) in GOLDEN {
        let kind = registry.get(name).unwrap();
        let found = preimage(kind, &serde_json::from_str(with).unwrap(), root.path());
        let digest = found.digest().unwrap().to_string();
        if digest != golden {
            changed.push(format!("{name} {with}: {digest}\n  {}", json!(found)));
        }
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

#[test]
fn every_kind_has_a_golden_key() {
    for kind in dcsft_stages::registry().iter() {
        assert!(
            GOLDEN.iter().any(|(name, ..)| *name == kind.decl().name),
            "{} has none",
            kind.decl().name
        );
    }
}

/// By the schema a spec says where the field stands, and what may have been meant.
#[test]
fn every_kind_refuses_a_field_that_it_does_not_have() {
    let root = folder();
    for kind in dcsft_stages::registry().iter() {
        let name = kind.decl().name;
        let schema = kind.schema();
        let rules = ["additionalProperties", "unevaluatedProperties"];
        let closed = rules
            .iter()
            .any(|rule| schema.get(*rule) == Some(&json!(false)));
        assert!(closed, "the schema of {name}");
        let unknown = json!({"no_such_field": 1});
        assert!(kind.resolve(&unknown, root.path()).is_err(), "{name}");
    }
}

#[test]
fn the_device_counts_and_its_index_does_not() {
    assert_eq!(
        dcsft_stages::numerics("cuda:0"),
        dcsft_stages::numerics("cuda:7")
    );
    let classes: BTreeSet<_> = ["cpu", "cuda:0", "wgpu:0"]
        .map(dcsft_stages::numerics)
        .into();
    assert_eq!(classes.len(), 3);
    assert_eq!(
        dcsft_stages::numerics("wgpu"),
        dcsft_engine::stage::Numerics {
            backend: "wgpu".into(),
            dtype: "f32-6".into()
        }
    );
    assert_eq!(
        dcsft_stages::numerics("cpu"),
        dcsft_engine::stage::Numerics {
            backend: "flex".into(),
            dtype: "f32".into()
        }
    );
}

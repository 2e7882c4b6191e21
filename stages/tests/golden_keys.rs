//! The key of every kind's defaults. A key that changes makes every user compute every such result again, so it changes
//! on purpose or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use dcsft_cache::Digest;
use dcsft_engine::key::{self, FilesIdentity, InputIdentity, KeyPreimage, Numerics};
use dcsft_engine::kind::{Kind, Label};
use dcsft_engine::params::Params;
use serde_json::{Value, json};

/// The least that each kind has to be told, and the key that comes of it.
const GOLDEN: [(&str, &str, &str); 10] = [
    ("dataset", r#"{"path": "list.json"}"#, ""),
    ("difficulty", "{}", ""),
    ("eval", "{}", ""),
    ("grpo", r#"{"steps": 10}"#, ""),
    ("model", r#"{"kind": "micro"}"#, ""),
    ("model", r#"{"kind": "qwen2_5_vl", "path": "folder"}"#, ""),
    ("report", "{}", ""),
    ("rollout", "{}", ""),
    ("sft", r#"{"steps": 10}"#, ""),
    ("shapes", "{}", ""),
];

const LIST: &str = r#"[{"problem": "What?", "solution": "cat", "image": "a.png"}]"#;

/// A folder with the files that the params above name.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("list.json"), LIST).unwrap();
    std::fs::write(dir.path().join("a.png"), "").unwrap();
    let model = dir.path().join("folder");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.json"), "{}").unwrap();
    std::fs::write(model.join("model.safetensors"), "").unwrap();
    dir
}

fn preimage(kind: &dyn Kind, with: &Value, root: &Path) -> KeyPreimage {
    let resolved = kind
        .resolve(with, root)
        .unwrap_or_else(|problems| panic!("{}: {problems:?}", kind.name()));
    let mut params = (*resolved.value).clone();
    let mut files = BTreeMap::new();
    for file in &resolved.files {
        params.as_object_mut().unwrap().shift_remove(&file.field);
        let identity = FilesIdentity {
            count: 1,
            digest: Digest::of_bytes(file.field.as_bytes()),
        };
        files.insert(file.field.clone(), identity);
    }
    let label = |name: &str| Label {
        stage: name.into(),
        output: "output".into(),
        axes: BTreeMap::from([("seed".into(), json!(0))]),
        arm: name.into(),
        evaluated: None,
    };
    let inputs = kind.inputs().iter().map(|input| {
        let identity = InputIdentity {
            digest: Digest::of_bytes(input.name.as_bytes()),
            label: kind.labelled().then(|| label(input.name)),
        };
        (input.name.to_owned(), vec![identity])
    });
    KeyPreimage {
        format: key::FORMAT,
        kind: kind.name().to_owned(),
        version: kind.version(),
        params: Params::of(&params),
        files,
        inputs: inputs.collect(),
        numerics: kind.numeric().then(|| Numerics::of("cpu")),
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
            GOLDEN.iter().any(|(name, ..)| *name == kind.name()),
            "{} has none",
            kind.name()
        );
    }
}

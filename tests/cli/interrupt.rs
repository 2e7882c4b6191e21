//! Ctrl-C: the run ends cleanly, the next one resumes it.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::Lab;

const LONG: &str = r#"
dcsft: 1
name: long
stages:
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 4, train: 256, val: 4, rendition: 4, adversarial: 4}}
  untrained: {uses: model, with: {kind: micro}}
  trained:
    uses: sft
    with: {model: "${untrained}", data: "${world.train}", steps: 150, batch_size: 16, learning_rate: 1e-3}
"#;

#[test]
fn an_interrupted_run_is_resumed_with_the_same_bytes() {
    let lab = Lab::new(LONG);
    let mut child = lab
        .command(&["run", "spec.yaml", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut events = BufReader::new(child.stdout.take().expect("its stdout")).lines();
    let training = events.by_ref().map_while(Result::ok).find(|line| {
        let event: Value = serde_json::from_str(line).expect("JSON");
        event["event"] == "progress"
            && event["stage"] == "trained"
            && event["done"].as_u64() > Some(0)
    });
    assert!(training.is_some(), "training began");
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill");
    assert!(sent.success());
    let rest: Vec<String> = events.map_while(Result::ok).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest:?}");

    let status = lab.ok(&["status", "spec.yaml"]);
    assert!(status.contains("interrupted"), "{status}");
    lab.ok(&["run", "spec.yaml"]);
    let undisturbed = Lab::new(LONG);
    undisturbed.ok(&["run", "spec.yaml"]);
    assert_eq!(
        lab.ok(&["lock", "spec.yaml", "--print"]),
        undisturbed.ok(&["lock", "spec.yaml", "--print"])
    );
}

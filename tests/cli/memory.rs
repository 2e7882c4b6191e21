//! `plan`'s estimates of memory against what the stages' processes took.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "the table is for people")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Lab, lines};

/// What the estimate promises.
const TOLERANCE: f64 = 0.25;

/// A micro model large enough to outweigh its process, trained, asked and evaluated.
const STUDY: &str = r#"
dcsft: 1
name: memory
stages:
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 96, train: 64, val: 64, rendition: 4, adversarial: 4}}
  untrained:
    uses: model
    with:
      kind: micro
      vision: {width: 256, layers: 4, heads: 4}
      decoder: {width: 256, layers: 4, heads: 4}
  sft:
    uses: sft
    with: {model: "${untrained}", data: "${world.cold_start}", steps: 2, batch_size: 32}
  lora:
    uses: sft
    with: {model: "${sft}", data: "${world.cold_start}", steps: 2, batch_size: 32, lora: {rank: 8, alpha: 16}}
  grpo:
    uses: grpo
    with: {model: "${sft}", data: "${world.train}", steps: 2, prompts_per_step: 4, generations: 4, max_new_tokens: 6,
           lora: {rank: 8, alpha: 16}}
  rollouts:
    uses: rollout
    with: {model: "${lora}", data: "${world.train}", n: 4, max_new_tokens: 6}
  eval:
    uses: eval
    with: {model: "${lora}", data: "${world.val}", max_new_tokens: 6}
"#;

/// The same of a checkpoint of Qwen2.5-VL.
const QWEN: &str = r#"
dcsft: 1
name: memory-qwen
vars: {checkpoint: none}
stages:
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 8, train: 8, val: 4, rendition: 4, adversarial: 4}}
  model: {uses: model, with: {kind: qwen2_5_vl, path: "${vars.checkpoint}"}}
  sft:
    uses: sft
    with: {model: "${model}", data: "${world.cold_start}", steps: 2, batch_size: 4, lora: {rank: 4, alpha: 8}}
  rollouts:
    uses: rollout
    with: {model: "${sft}", data: "${world.train}", n: 2, max_new_tokens: 4}
"#;

/// Peak of each stage that has an estimate, by title: estimated before the run.
fn estimates(plan: &[Value]) -> BTreeMap<String, f64> {
    plan.iter()
        .filter_map(|stage| {
            let peak = stage["memory"]["peak_bytes"].as_f64()?;
            Some((stage["stage"].as_str()?.to_owned(), peak))
        })
        .collect()
}

/// Peaks of the records in the lab's cache, by label.
fn measured(lab: &Lab) -> BTreeMap<String, f64> {
    let mut folders = vec![lab.root().join("cache")];
    let mut peaks = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let text = std::fs::read_to_string(&path).expect("a file");
                let value: Value = serde_json::from_str(&text).unwrap_or_default();
                let record = &value["record"];
                let peak = record["execution"]["peak_rss_bytes"].as_f64();
                if let (Some(label), Some(peak)) = (record["label"].as_str(), peak) {
                    peaks.insert(label.to_owned(), peak);
                }
            }
        }
    }
    peaks
}

fn compare(lab: &Lab, arguments: &[&str], stages: &[&str]) {
    let plan = lines(&lab.ok(&[&["plan", "spec.yaml", "--json"], arguments].concat()));
    let estimates = estimates(&plan);
    lab.ok(&[
        &["run", "spec.yaml", "--jobs", "1", "--no-report"],
        arguments,
    ]
    .concat());
    let measured = measured(lab);
    let mut wrong = Vec::new();
    println!("| stage | estimate MiB | measured MiB | ratio |");
    for &stage in stages {
        let (estimate, peak) = (estimates[stage], measured[stage]);
        let ratio = estimate / peak;
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        println!(
            "| {stage} | {:.1} | {:.1} | {ratio:.2} |",
            mib(estimate),
            mib(peak)
        );
        if (ratio - 1.0).abs() > TOLERANCE {
            wrong.push(stage);
        }
    }
    assert!(wrong.is_empty(), "more than {TOLERANCE} off: {wrong:?}");
}

#[test]
fn peaks_of_the_micro_model_are_as_planned() {
    let lab = Lab::new(STUDY);
    compare(
        &lab,
        &[],
        &["untrained", "sft", "lora", "grpo", "rollouts", "eval"],
    );
}

#[test]
fn golden_peaks_of_a_checkpoint_are_as_planned() {
    let golden = std::env::var_os("DCSFT_GOLDEN")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("DCSFT_SHARED")?).join("golden")));
    let Some(golden) = golden.filter(|golden| golden.is_dir()) else {
        eprintln!("skipped: neither DCSFT_GOLDEN nor DCSFT_SHARED names the golden data");
        return;
    };
    let lab = Lab::new(QWEN);
    let checkpoint = format!("vars.checkpoint={}", golden.join("ckpt").display());
    compare(&lab, &["--set", &checkpoint], &["sft", "rollouts"]);
}

#[test]
fn trained_numbers_are_those_that_the_stage_reports() {
    let lab = Lab::new(STUDY);
    let plan = lines(&lab.ok(&["plan", "spec.yaml", "--json"]));
    let numbers = |title: &str, field: &str| {
        let stage = plan.iter().find(|stage| stage["stage"] == title);
        stage
            .and_then(|stage| stage["memory"][field].as_u64())
            .expect("an estimate")
    };
    let all = numbers("untrained", "parameters");
    assert_eq!(numbers("sft", "trained"), all);
    assert_eq!(
        numbers("lora", "parameters"),
        all + numbers("lora", "trained")
    );
    assert!(numbers("lora", "trained") < all / 5);
    assert_eq!(numbers("eval", "parameters"), numbers("lora", "parameters"));
    let text = lab.ok(&["plan", "spec.yaml"]);
    assert!(
        text.contains("activations") && text.contains("peak"),
        "{text}"
    );
}

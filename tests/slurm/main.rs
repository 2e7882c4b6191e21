//! Runs on a real Slurm cluster of two nodes on this machine. `.ci/slurm` starts it and runs these tests, which are
//! ignored otherwise: `DCSFT_SLURM` is its folder, `DCSFT_SLURM_CONTROL` the script that starts and stops its parts.

mod cluster;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::{Cluster, Lab, Running, SMALL};
use serde_json::Value;

fn finished(events: &[Value]) -> BTreeMap<String, u32> {
    let mut finished = BTreeMap::new();
    for event in events {
        if event["event"] == "stage_finished" {
            let stage = event["stage"].as_str().unwrap_or_default().to_owned();
            *finished.entry(stage).or_default() += 1;
        }
    }
    finished
}

fn local_lock(spec: &str) -> String {
    let lab = Lab::new(spec);
    lab.ok(&["run", "spec.yaml", "--no-report"]);
    lab.ok(&["lock", "spec.yaml", "--print"])
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn a_study_runs_as_jobs_with_the_bytes_of_a_local_run() {
    let _cluster = Cluster::get();
    let lab = Lab::new(SMALL);
    let events = lab.run_to_end();
    assert!(finished(&events).values().all(|times| *times == 1));
    assert_eq!(lab.ok(&["lock", "spec.yaml", "--print"]), local_lock(SMALL));
    // The cells of a stage that were ready together are one array.
    let arrays = lab.arrays();
    let worlds = arrays.iter().find(|(name, _)| name.contains("-world-"));
    assert_eq!(worlds.map(|(_, tasks)| *tasks), Some(2), "{arrays:?}");
    let again = lab.run_to_end();
    assert!(finished(&again).is_empty());
    assert!(lab.ok(&["cache", "verify"]).contains("0 damaged"));
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn a_run_that_died_is_followed_by_one_that_adopts_its_jobs() {
    let _cluster = Cluster::get();
    let lab = Lab::new(SMALL);
    adopts(&lab, lab.start());
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn a_run_that_died_on_another_login_node_is_followed_by_one_that_adopts_its_jobs() {
    let _cluster = Cluster::get();
    let lab = Lab::new(&SMALL.replace("steps: 600", "steps: 6000"));
    adopts(&lab, lab.start_on("login2"));
}

/// The run is killed in the middle, and the next one takes over what it has submitted.
fn adopts(lab: &Lab, mut run: Running) {
    run.wait_for(|event| event["event"] == "stage_finished" && event["stage"] == "base[seed=0]");
    run.wait_for(|event| event["event"] == "stage_started" && event["stage"] == "slow");
    // Long enough for the job to be submitted.
    std::thread::sleep(Duration::from_secs(2));
    let submitted = lab.arrays();
    run.kill();
    let events = lab.run_to_end();
    let adopted = events.iter().filter(|event| {
        let message = event["message"].as_str().unwrap_or_default();
        event["event"] == "log" && message.contains("which an earlier run has submitted")
    });
    assert!(adopted.count() > 0, "{events:?}");
    // Whatever was in the queue is there once.
    let slow = |arrays: &BTreeMap<String, usize>| {
        arrays.keys().filter(|name| name.contains("-slow-")).count()
    };
    assert_eq!(slow(&submitted), 1, "{submitted:?}");
    assert_eq!(slow(&lab.arrays()), 1, "{:?}", lab.arrays());
    let lock = lab.ok(&["lock", "spec.yaml", "--print"]);
    assert_eq!(lock, local_lock(&lab.spec()));
}

/// Answers in shards, long enough to be looked at.
const SHARDS: &str = r#"
dcsft: 1
name: shards
stages:
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 4, train: 1500, val: 4, rendition: 0, adversarial: 0}}
  untrained: {uses: model, with: {kind: micro}}
  rollouts:
    uses: rollout
    shards: 3
    with: {model: "${untrained}", data: "${world.train}", n: 16, max_new_tokens: 32}
"#;

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn shards_are_tasks_of_one_array_and_are_adopted_too() {
    let _cluster = Cluster::get();
    let lab = Lab::new(SHARDS);
    let mut run = lab.start();
    run.wait_for(|event| event["event"] == "progress" && event["stage"] == "rollouts");
    let rollouts = |lab: &Lab| -> Vec<usize> {
        let arrays = lab.arrays().into_iter();
        let arrays = arrays.filter(|(name, _)| name.contains("-rollouts-"));
        arrays.map(|(_, tasks)| tasks).collect()
    };
    assert_eq!(rollouts(&lab), [3]);
    run.kill();
    let events = lab.run_to_end();
    let adopted = events.iter().filter(|event| {
        let message = event["message"].as_str().unwrap_or_default();
        event["event"] == "log" && message.contains("which an earlier run has submitted")
    });
    assert_eq!(adopted.count(), 3, "{events:?}");
    let shards = events
        .iter()
        .filter(|event| event["event"] == "shard_finished");
    assert_eq!(shards.count(), 3);
    // And one job that joins them.
    let mut arrays = rollouts(&lab);
    arrays.sort_unstable();
    assert_eq!(arrays, [1, 3]);
    let whole = SHARDS.replace("shards: 3", "shards: 1");
    assert_eq!(
        lab.ok(&["lock", "spec.yaml", "--print"]),
        local_lock(&whole)
    );
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn an_interrupted_run_leaves_its_jobs_and_cancel_ends_them() {
    let cluster = Cluster::get();
    let lab = Lab::new(SMALL);
    let mut run = lab.start();
    run.wait_for(|event| event["event"] == "stage_started" && event["stage"] == "slow");
    cluster.wait_for_job("-slow-", "RUNNING");
    let (code, said) = run.interrupt();
    assert_eq!(code, Some(130));
    assert!(said.contains("stay in the cluster's queue"), "{said}");
    assert!(
        cluster
            .jobs("-slow-")
            .iter()
            .any(|state| state == "RUNNING")
    );
    let said = lab.run_command(&["cancel", "spec.yaml"]).1;
    assert!(said.contains("cancelled"), "{said}");
    cluster.wait_until_gone("-slow-");
    let events = lab.run_to_end();
    assert_eq!(finished(&events).get("slow"), Some(&1));
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn a_job_whose_node_is_lost_runs_again_and_that_is_not_counted() {
    let cluster = Cluster::get();
    let lab = Lab::new(SMALL);
    let mut run = lab.start();
    run.wait_for(|event| event["event"] == "stage_started" && event["stage"] == "slow");
    let node = cluster.node_of("-slow-");
    cluster.lose(&node);
    let retried = run.wait_for(|event| event["event"] == "stage_retries");
    cluster.bring_back(&node);
    let message = retried["message"].as_str().unwrap_or_default();
    assert!(message.contains("its job was lost"), "{message}");
    let (code, events) = run.end();
    assert_eq!(code, Some(0), "{events:?}");
    assert_eq!(lab.ok(&["lock", "spec.yaml", "--print"]), local_lock(SMALL));
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn a_time_limit_is_said_in_its_own_words() {
    let cluster = Cluster::get();
    // Slurm takes up to 20 s to notice.
    let spec = SMALL.replace("steps: 600", "steps: 100000");
    let lab = Lab::new(&spec);
    let mut run = lab.start();
    run.wait_for(|event| event["event"] == "stage_started" && event["stage"] == "slow");
    cluster.wait_for_job("-slow-", "RUNNING");
    cluster.end_soon("-slow-");
    let failed = run.wait_for(|event| event["event"] == "stage_failed");
    let (code, _) = run.end();
    assert_eq!(code, Some(1));
    assert_eq!(failed["reason"], "timed_out", "{failed}");
    let message = failed["message"].as_str().unwrap_or_default();
    assert!(message.contains("time limit on the cluster"), "{message}");
    // It goes on from its saved state.
    let mut run = lab.start();
    let progress = run.wait_for(|event| event["event"] == "progress" && event["stage"] == "slow");
    assert!(progress["done"].as_u64() > Some(1000), "{progress}");
    run.kill();
    lab.run_command(&["cancel", "spec.yaml"]);
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn a_controller_that_restarts_costs_nothing() {
    let cluster = Cluster::get();
    let lab = Lab::new(SMALL);
    let mut run = lab.start();
    run.wait_for(|event| event["event"] == "stage_started" && event["stage"] == "slow");
    cluster.wait_for_job("-slow-", "RUNNING");
    // It has written down by then what it knows.
    std::thread::sleep(Duration::from_secs(6));
    cluster.stop_controller();
    std::thread::sleep(Duration::from_secs(3));
    cluster.start_controller();
    let (code, events) = run.end();
    assert_eq!(code, Some(0), "{events:?}");
    assert!(finished(&events).values().all(|times| *times == 1));
    assert_eq!(lab.ok(&["lock", "spec.yaml", "--print"]), local_lock(SMALL));
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn a_job_that_somebody_cancels_fails_in_its_own_words() {
    let cluster = Cluster::get();
    let lab = Lab::new(SMALL);
    let mut run = lab.start();
    run.wait_for(|event| event["event"] == "stage_started" && event["stage"] == "slow");
    cluster.wait_for_job("-slow-", "RUNNING");
    cluster.cancel("-slow-");
    let failed = run.wait_for(|event| event["event"] == "stage_failed");
    run.end();
    assert_eq!(failed["reason"], "stopped", "{failed}");
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn what_slurm_does_not_take_is_told_with_its_words() {
    let _cluster = Cluster::get();
    let spec = SMALL.replace(
        "uses: shapes",
        "uses: shapes\n    resources: {partition: nowhere}",
    );
    let lab = Lab::new(&spec);
    let (code, said) = lab.run_command(&["run", "spec.yaml", "--executor", "slurm"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("Slurm does not take the job"), "{said}");
    assert!(said.contains("partition"), "{said}");
}

#[test]
#[ignore = "needs a Slurm cluster: .ci/slurm"]
fn a_job_that_waits_says_for_what() {
    let _cluster = Cluster::get();
    let spec = SMALL.replace("uses: shapes", "uses: shapes\n    resources: {threads: 99}");
    let lab = Lab::new(&spec);
    let mut run = lab.start();
    let waits = run.wait_for(|event| event["event"] == "stage_waits");
    let holder = waits["holder"].as_str().unwrap_or_default();
    assert!(holder.contains("pending"), "{holder}");
    run.kill();
    lab.run_command(&["cancel", "spec.yaml"]);
}

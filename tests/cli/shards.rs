//! `shards:` of a stage: the same lock file, a shared cache, kills.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Lab, lines};

const SPEC: &str = r#"
dcsft: 1
name: cut
vars: {tokens: 4, n: 2}
stages:
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 4, train: 600, val: 20, rendition: 4, adversarial: 4}}
  untrained: {uses: model, with: {kind: micro}}
  rollouts:
    uses: rollout
    shards: 3
    retries: 1
    with: {model: "${untrained}", data: "${world.train}", n: "${vars.n}", max_new_tokens: "${vars.tokens}"}
  eval:
    uses: eval
    shards: 7
    with: {model: "${untrained}", data: "${world.val}", max_new_tokens: "${vars.tokens}"}
"#;

const WHOLE: [&str; 4] = [
    "--set",
    "stages.rollouts.shards=1",
    "--set",
    "stages.eval.shards=1",
];
/// Long enough to be killed meanwhile.
const LONG: [&str; 4] = ["--set", "vars.n=16", "--set", "vars.tokens=32"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    args.iter().chain(more).copied().collect()
}

#[test]
fn shards_change_neither_the_lock_file_nor_what_is_cached() {
    let cut = Lab::new(SPEC);
    cut.ok(&["run", "spec.yaml"]);
    let whole = Lab::new(SPEC);
    whole.ok(&with(&["run", "spec.yaml"], &WHOLE));
    let lock = cut.ok(&["lock", "spec.yaml", "--print"]);
    assert_eq!(
        lock,
        whole.ok(&with(&["lock", "spec.yaml", "--print"], &WHOLE))
    );
    for (lab, args) in [(&cut, &WHOLE[..]), (&whole, &[])] {
        let events = lines(&lab.ok(&with(&["run", "spec.yaml", "--json"], args)));
        let last = events.last().expect("an event");
        assert_eq!((&last["executed"], &last["cached"]), (&0.into(), &4.into()));
    }
    let plan = cut.ok(&["plan", "spec.yaml", "--all"]);
    assert!(plan.contains("rollout, 3 shards"), "{plan}");
}

/// The worker of a shard in a lab's cache.
fn worker(lab: &Lab, shard: &str) -> Option<String> {
    let job = format!("/shards/{shard}/job.json");
    let root = lab.root().to_string_lossy().into_owned();
    let is_worker = |process: &Path| {
        let text = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.contains(&job) && text.contains(&root)
    };
    let mut processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let found = processes.find(|entry| is_worker(&entry.path()));
    found.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn kill(id: &str) {
    let sent = Command::new("kill").args(["-KILL", id]).status();
    assert!(sent.expect("kill").success());
}

fn start(lab: &Lab) -> Child {
    let args = with(&["run", "spec.yaml", "--json", "--jobs", "3"], &LONG);
    let mut command = lab.command(&args);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("the binary starts")
}

/// The events up to the first that is `wanted`.
fn until(
    events: &mut impl Iterator<Item = String>,
    wanted: impl Fn(&Value) -> bool,
) -> Option<Value> {
    events
        .map(|line| serde_json::from_str::<Value>(&line).expect("JSON"))
        .find(wanted)
}

#[test]
fn a_killed_shard_and_a_killed_run_change_no_byte() {
    let lab = Lab::new(SPEC);
    let mut run = start(&lab);
    let stdout = run.stdout.take().expect("its stdout");
    let mut events = BufReader::new(stdout).lines().map_while(Result::ok);
    let works = |event: &Value| event["event"] == "progress" && event["stage"] == "rollouts";
    assert!(until(&mut events, works).is_some(), "it draws answers");
    kill(&worker(&lab, "2-of-3").expect("the worker of the second shard"));
    let retries = until(&mut events, |event| event["event"] == "shard_retries");
    let retries = retries.expect("the shard is tried again");
    assert_eq!(
        (&retries["stage"], &retries["shard"]["index"]),
        (&"rollouts".into(), &2.into())
    );
    assert!(until(&mut events, works).is_some(), "it goes on");
    let status = lab.ok(&with(&["status", "spec.yaml"], &LONG));
    assert!(status.contains("of 3 shards done"), "{status}");
    kill(&run.id().to_string());
    run.wait().expect("it is gone");
    // The workers save what they have, and end.
    let since = Instant::now();
    while (1..=3).any(|shard| worker(&lab, &format!("{shard}-of-3")).is_some()) {
        assert!(since.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }

    // Another cut takes what those had.
    let args = with(&LONG, &["--set", "stages.rollouts.shards=2"]);
    lab.ok(&with(&["run", "spec.yaml"], &args));
    let undisturbed = Lab::new(SPEC);
    let whole = with(&LONG, &WHOLE);
    undisturbed.ok(&with(&["run", "spec.yaml"], &whole));
    assert_eq!(
        lab.ok(&with(&["lock", "spec.yaml", "--print"], &LONG)),
        undisturbed.ok(&with(&["lock", "spec.yaml", "--print"], &whole))
    );
}

#[test]
fn what_cannot_be_cut_is_a_mistake_of_the_spec() {
    let lab = Lab::new(SPEC);
    let done = lab.dcsft(&["plan", "spec.yaml", "--set", "stages.world.shards=2"]);
    assert_eq!(done.code, 2);
    for part in [
        "a stage of kind `shapes` cannot be cut into shards",
        "those of `eval`, `rollout` can",
    ] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    let done = lab.dcsft(&["plan", "spec.yaml", "--set", "stages.eval.shards=0"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr
            .contains("`shards` takes a whole number from 1 to 1000, or `auto`, not the number 0"),
        "{}",
        done.stderr
    );
}

//! Runs that share a cache whose locks keep nobody out, as on many network file systems.
#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{Lab, TINY, lines};

/// A library that makes every lock succeed, whoever has it.
fn no_locks(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("no_locks.c"), folder.join("no_locks.so"));
    let text = "int flock(int file, int how) { (void)file; (void)how; return 0; }\n";
    std::fs::write(&source, text).expect("write a file");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .expect("a C compiler, which the linker comes with");
    assert!(built.success());
    library
}

fn start(lab: &Lab, library: &Path) -> Child {
    let mut command = lab.command(&["run", "spec.yaml", "--json", "--no-report", "-j2"]);
    command.env("LD_PRELOAD", library);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary starts")
}

/// The events of a run that ended well.
fn events(child: Child) -> Vec<Value> {
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    lines(&text(&output.stdout))
}

#[test]
fn two_runs_compute_each_key_once_where_locks_keep_nobody_out() {
    let undisturbed = Lab::new(TINY);
    undisturbed.ok(&["run", "spec.yaml", "--no-report"]);
    let lock = undisturbed.ok(&["lock", "spec.yaml", "--print"]);
    let distinct = distinct_keys(&lock);
    // More of them for whoever doubts it.
    let rounds = std::env::var("DCSFT_ROUNDS").map_or(3, |text| text.parse().expect("a number"));
    for round in 0..rounds {
        let lab = Lab::new(TINY);
        let library = no_locks(lab.root());
        let runs = [start(&lab, &library), start(&lab, &library)];
        let mut executed: BTreeMap<String, u32> = BTreeMap::new();
        for events in runs.map(events) {
            let finished = events
                .iter()
                .filter(|event| event["event"] == "stage_finished");
            for event in finished {
                let stage = event["stage"].as_str().expect("a title").to_owned();
                *executed.entry(stage).or_default() += 1;
            }
        }
        assert!(
            executed.values().all(|times| *times == 1),
            "round {round}: {executed:?}"
        );
        assert_eq!(executed.len(), distinct, "round {round}: {executed:?}");
        assert_eq!(lab.ok(&["lock", "spec.yaml", "--print"]), lock);
        let verified = lab.ok(&["cache", "verify"]);
        assert!(verified.contains("0 damaged"), "{verified}");
    }
}

#[test]
fn a_killed_run_is_not_waited_for_where_locks_keep_nobody_out() {
    let lab = Lab::new(TINY);
    let library = no_locks(lab.root());
    let mut first = start(&lab, &library);
    // As soon as it works on something.
    let locks = lab.root().join("cache/v1/locks");
    let working = || {
        let entries = std::fs::read_dir(&locks).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .any(|name| name.ends_with(".lease"))
    };
    while !working() {
        assert!(first.try_wait().expect("its state").is_none());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    first.kill().expect("it is killed");
    let _ = first.wait();
    let events = events(start(&lab, &library));
    let waits = events
        .iter()
        .filter(|event| event["event"] == "stage_waits")
        .filter(|event| event["seconds"].as_f64() > Some(5.0));
    assert_eq!(waits.count(), 0, "{events:?}");
}

#[test]
fn the_doctor_says_that_locks_keep_nobody_out() {
    let lab = Lab::new(TINY);
    let library = no_locks(lab.root());
    let mut command = lab.command(&["doctor"]);
    let without = crate::support::finish(command.env("LD_PRELOAD", &library)).stdout;
    assert!(without.contains("leases keep runs apart"), "{without}");
    let with = lab.dcsft(&["doctor"]).stdout;
    assert!(with.contains("locks        work"), "{with}");
}

/// How many keys a lock file has.
fn distinct_keys(lock: &str) -> usize {
    let stages = lines(lock);
    let keys = stages.iter().filter_map(|stage| stage["key"].as_str());
    keys.collect::<BTreeSet<_>>().len()
}

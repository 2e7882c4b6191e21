//! Garbage collection takes what the policy says, and nothing that something refers to.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{Bench, flip, hostname, key, names, seconds};
use dcsft_cache::gc::{self, Policy, Report};
use dcsft_cache::verify;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn collect(bench: &Bench, policy: Policy) -> Report {
    let report = gc::collect(&bench.store, &policy).unwrap();
    assert_eq!(verify::verify(&bench.store, |_| ()).unwrap().damaged, []);
    report
}

fn has(bench: &Bench, name: &str) -> bool {
    bench.store.lookup_verified(&key(name)).unwrap().is_some()
}

fn age(path: &Path, age: Duration) {
    File::open(path)
        .unwrap()
        .set_modified(SystemTime::now() - age)
        .unwrap();
}

#[test]
fn without_a_policy_only_what_nothing_refers_to_goes() {
    let bench = Bench::new();
    bench.compute(&key("a"), &[("f", b"used")], 1.0);
    let orphan = bench.publish(&[("f", b"orphan"), ("g", b"used")]);
    let report = collect(&bench, Policy::default());
    assert_eq!(
        (
            report.removed_records,
            report.removed_artifacts,
            report.removed_blobs
        ),
        (0, 1, 1)
    );
    assert_eq!(
        (report.freed_bytes, report.kept_records, report.kept_bytes),
        (6, 1, 4)
    );
    assert!(has(&bench, "a"));
    assert_eq!(bench.store.artifact(&orphan.digest).unwrap(), None);
    assert_eq!(collect(&bench, Policy::default()).freed_bytes, 0);
}

#[test]
fn a_family_forgets_members_that_went() {
    let bench = Bench::new();
    let family = key("family");
    for (name, time) in [("old", 10), ("new", 20)] {
        bench.compute(&key(name), &[("f", name.as_bytes())], 1.0);
        let mut record = bench.store.lookup(&key(name)).unwrap().unwrap();
        record.created_unix = time;
        bench.store.commit(&record).unwrap();
        bench.store.join_family(&family, &key(name)).unwrap();
        bench.store.join_family(&family, &key(name)).unwrap();
    }
    bench
        .store
        .join_family(&family, &key("never computed"))
        .unwrap();
    let members = || {
        let records = bench.store.family(&family).unwrap();
        records
            .into_iter()
            .map(|record| record.key)
            .collect::<Vec<_>>()
    };
    assert_eq!(members(), [key("new"), key("old")]);
    assert_eq!(bench.store.family(&key("another")).unwrap(), []);
    let folder = bench
        .inside("families")
        .join(&family.to_string()[..2])
        .join(family.to_string());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
    let keep = Policy {
        keep: BTreeSet::from([key("old")]),
        drop_others: true,
        ..Policy::default()
    };
    collect(&bench, keep);
    assert_eq!(members(), [key("old")]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    collect(
        &bench,
        Policy {
            drop_others: true,
            ..Policy::default()
        },
    );
    assert_eq!(members(), []);
    assert!(!folder.exists());
}

#[test]
fn what_is_to_be_kept_stays_and_shared_bytes_with_it() {
    let bench = Bench::new();
    bench.compute(&key("a"), &[("f", b"shared"), ("g", b"own a")], 1.0);
    bench.compute(&key("b"), &[("f", b"shared"), ("g", b"own of b")], 1.0);
    bench.compute(&key("c"), &[("f", b"shared"), ("g", b"own a")], 1.0);
    let report = collect(
        &bench,
        Policy {
            keep: BTreeSet::from([key("a")]),
            drop_others: true,
            ..Policy::default()
        },
    );
    assert_eq!(
        (
            report.removed_records,
            report.removed_artifacts,
            report.removed_blobs
        ),
        (2, 1, 1)
    );
    assert_eq!(report.freed_bytes, "own of b".len() as u64);
    let removed: BTreeSet<_> = report.removed.iter().map(|removed| removed.key).collect();
    assert_eq!(removed, BTreeSet::from([key("b"), key("c")]));
    assert!(has(&bench, "a") && !has(&bench, "b") && !has(&bench, "c"));
}

#[test]
fn a_dry_run_says_the_same_and_removes_nothing() {
    let bench = Bench::new();
    bench.compute(&key("a"), &[("f", b"1")], 1.0);
    bench.publish(&[("f", b"orphan")]);
    fs::write(bench.inside("tmp").join("left"), b"behind").unwrap();
    let policy = Policy {
        drop_others: true,
        ..Policy::default()
    };
    let before = bench.store.usage().unwrap();
    let dry = collect(
        &bench,
        Policy {
            dry_run: true,
            ..policy.clone()
        },
    );
    assert_eq!(bench.store.usage().unwrap(), before);
    assert_eq!(collect(&bench, policy), dry);
    assert_eq!(bench.store.usage().unwrap(), Default::default());
}

#[test]
fn records_go_by_the_time_of_their_last_use() {
    let bench = Bench::new();
    for name in ["old", "used", "new"] {
        bench.compute(&key(name), &[("f", name.as_bytes())], 1.0);
    }
    age(&bench.record_file(&key("old")), 10 * DAY);
    age(&bench.record_file(&key("used")), 10 * DAY);
    assert!(bench.store.lookup(&key("used")).unwrap().is_some());
    // To list a record is not to use it.
    assert_eq!(bench.store.records().unwrap().count(), 3);
    let report = collect(
        &bench,
        Policy {
            older_than: Some(5 * DAY),
            ..Policy::default()
        },
    );
    assert_eq!(report.removed_records, 1);
    assert!(!has(&bench, "old") && has(&bench, "used") && has(&bench, "new"));
}

#[test]
fn the_cheapest_per_byte_goes_first_until_the_rest_fits() {
    let bench = Bench::new();
    bench.compute(&key("dear"), &[("f", &[1; 1000])], 1000.0);
    bench.compute(&key("cheap"), &[("f", &[2; 1000])], 1.0);
    bench.compute(&key("large"), &[("f", &[3; 4000])], 100.0);
    bench.compute(&key("kept"), &[("f", &[4; 1000])], 0.0);
    let keep = BTreeSet::from([key("kept")]);
    let policy = |max_bytes| Policy {
        keep: keep.clone(),
        max_bytes: Some(max_bytes),
        cost: seconds,
        ..Policy::default()
    };

    assert_eq!(collect(&bench, policy(7000)).removed_records, 0);
    let report = collect(&bench, policy(6999));
    assert_eq!(
        (report.removed[0].key, report.removed_records),
        (key("cheap"), 1)
    );
    assert_eq!((report.freed_bytes, report.kept_bytes), (1000, 6000));
    assert_eq!(collect(&bench, policy(2000)).removed[0].key, key("large"));
    assert!(has(&bench, "dear"));
    assert_eq!(collect(&bench, policy(0)).removed_records, 1);
    assert!(has(&bench, "kept"));
}

#[test]
fn eviction_spares_records_whose_bytes_stay_anyway() {
    let bench = Bench::new();
    bench.compute(&key("kept"), &[("f", &[1; 1000])], 1.0);
    bench.compute(&key("twin"), &[("f", &[1; 1000])], 1.0);
    let keep = BTreeSet::from([key("kept")]);
    let report = collect(
        &bench,
        Policy {
            keep,
            max_bytes: Some(0),
            cost: seconds,
            ..Policy::default()
        },
    );
    assert_eq!(report.removed_records, 0);
    assert!(has(&bench, "twin"));
}

#[test]
fn a_key_in_use_is_never_collected() {
    let bench = Bench::new();
    bench.compute(&key("a"), &[("f", b"1")], 1.0);
    let state = bench.store.workspace(&key("a")).unwrap().join("state");
    fs::write(&state, b"s").unwrap();
    let lock = bench.store.lock(&key("a"), || ()).unwrap();
    let policy = Policy {
        drop_others: true,
        max_bytes: Some(0),
        older_than: Some(Duration::ZERO),
        ..Policy::default()
    };
    assert_eq!(collect(&bench, policy.clone()).removed_records, 0);
    assert!(has(&bench, "a") && state.exists());
    drop(lock);
    assert_eq!(collect(&bench, policy).removed_records, 1);
}

#[test]
fn workspaces_last_as_long_as_they_may_be_resumed() {
    let bench = Bench::new();
    bench.compute(&key("done"), &[("f", b"1")], 1.0);
    let done = bench.store.workspace(&key("done")).unwrap();
    let fresh = bench.store.workspace(&key("fresh")).unwrap();
    let stale = bench.store.workspace(&key("stale")).unwrap();
    fs::write(stale.join("state"), b"12345").unwrap();
    age(&stale.join("state"), gc::WORKSPACE_AGE + DAY);
    age(&stale, gc::WORKSPACE_AGE + DAY);
    let report = collect(&bench, Policy::default());
    assert!(!done.exists() && fresh.exists() && !stale.exists());
    assert_eq!(report.freed_bytes, 5);
}

#[test]
fn leftovers_of_kills_go() {
    let bench = Bench::new();
    let left = bench.inside("tmp").join("publish-abc/taken");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("f"), b"123").unwrap();
    assert_eq!(collect(&bench, Policy::default()).freed_bytes, 3);
    assert_eq!(names(&bench.inside("tmp")), [""; 0]);
}

#[test]
fn the_quarantine_is_kept_for_a_while() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", b"1")], 1.0);
    flip(&bench.blob(b"1"));
    bench.store.open_input(&artifact.digest).unwrap_err();
    assert_eq!(bench.store.lookup(&key("a")).unwrap(), None);
    collect(&bench, Policy::default());
    let quarantined = bench.quarantined();
    assert_eq!(
        quarantined.len(),
        3,
        "blob, artifact and record: {quarantined:?}"
    );
    // What counts is when a thing came there, not how old it was then.
    for entry in walkdir::WalkDir::new(bench.inside("quarantine")).contents_first(true) {
        age(entry.unwrap().path(), gc::QUARANTINE_AGE + DAY);
    }
    collect(&bench, Policy::default());
    assert_eq!(bench.quarantined(), quarantined);

    put_back_in_time(&bench.inside("quarantine"), gc::QUARANTINE_AGE + DAY);
    collect(&bench, Policy::default());
    assert_eq!(names(&bench.inside("quarantine")), [""; 0]);
}

/// Gives what lies in the quarantine the names it would have had so long ago.
fn put_back_in_time(quarantine: &Path, age: Duration) {
    for name in names(quarantine) {
        let (stem, note) = match name.strip_suffix(".reason") {
            Some(stem) => (stem, ".reason"),
            None => (&*name, ""),
        };
        let (kind, nanos) = stem.rsplit_once('-').unwrap();
        let nanos = nanos.parse::<u128>().unwrap() - age.as_nanos();
        let older = quarantine.join(format!("{kind}-{nanos}{note}"));
        fs::rename(quarantine.join(&name), older).unwrap();
    }
}

#[test]
fn what_was_written_or_used_after_the_plan_was_made_stays() {
    let bench = Bench::new();
    for name in ["before", "used", "after"] {
        if name != "after" {
            bench.compute(&key(name), &[("f", name.as_bytes())], 1.0);
            age(&bench.record_file(&key(name)), DAY);
        }
    }
    let since = gc::Mark::new(&bench.store);
    bench.compute(&key("after"), &[("f", b"after")], 1.0);
    assert!(bench.store.lookup(&key("used")).unwrap().is_some());
    let policy = Policy {
        since: Some(since),
        drop_others: true,
        max_bytes: Some(0),
        older_than: Some(Duration::ZERO),
        ..Policy::default()
    };
    let report = collect(&bench, policy);
    let removed: Vec<_> = report.removed.iter().map(|removed| removed.key).collect();
    assert_eq!(removed, [key("before")]);
    assert!(has(&bench, "used") && has(&bench, "after"));
}

#[test]
fn what_nothing_refers_to_has_a_time_of_grace() {
    let bench = Bench::new();
    bench.compute(&key("gone"), &[("f", b"gone")], 1.0);
    let fresh = bench.publish(&[("f", b"not yet in a record")]);
    fs::write(bench.inside("tmp").join("being written"), b"123").unwrap();
    let policy = Policy {
        grace: gc::GRACE,
        drop_others: true,
        ..Policy::default()
    };
    let report = collect(&bench, policy.clone());
    assert_eq!(
        (
            report.removed_records,
            report.removed_artifacts,
            report.removed_blobs
        ),
        (1, 1, 1),
        "what a removed record referred to goes with it"
    );
    assert!(bench.store.open_input(&fresh.digest).is_ok());
    assert_eq!(names(&bench.inside("tmp")), ["being written"]);
    let without = Policy {
        grace: Duration::ZERO,
        ..policy
    };
    assert_eq!(collect(&bench, without).removed_artifacts, 1);
    assert_eq!(names(&bench.inside("tmp")), [""; 0]);
}

#[test]
fn a_dry_run_tells_what_is_in_the_way_and_moves_nothing() {
    let bench = Bench::new();
    bench.compute(&key("a"), &[("f", b"1")], 1.0);
    bench.compute(&key("damaged"), &[("f", b"2")], 1.0);
    bench.store.workspace(&key("a")).unwrap();
    flip(&bench.record_file(&key("damaged")));
    let guard = bench.store.hold("a run").unwrap();
    let policy = Policy {
        drop_others: true,
        dry_run: true,
        ..Policy::default()
    };
    let dry = gc::collect(&bench.store, &policy).unwrap();
    assert_eq!(
        dry.in_use,
        [format!(
            "process {} on {} (a run)",
            std::process::id(),
            hostname()
        )]
    );
    assert!(bench.record_file(&key("damaged")).exists());
    assert_eq!(bench.quarantined(), [""; 0]);
    drop(guard);
    let wet = gc::collect(
        &bench.store,
        &Policy {
            dry_run: false,
            ..policy
        },
    )
    .unwrap();
    assert_eq!(
        wet,
        Report {
            in_use: Vec::new(),
            ..dry
        }
    );
}

#[test]
fn digests_of_paths_that_are_gone_are_forgotten() {
    let bench = Bench::new();
    let (here, gone) = (
        bench.folder("here", &[("f", b"1")]),
        bench.folder("gone", &[("f", b"2")]),
    );
    bench.store.digest_path(&here, false).unwrap();
    bench.store.digest_path(&gone, false).unwrap();
    fs::remove_dir_all(&gone).unwrap();
    assert_eq!(names(&bench.inside("stat-cache")).len(), 2);
    collect(&bench, Policy::default());
    assert_eq!(names(&bench.inside("stat-cache")).len(), 1);
}

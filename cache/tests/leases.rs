//! Leases of this host and of others. Another host is a file in its words: nothing else of it is ever seen.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Bench, key};
use dcsft_cache::{Lease, StoreError, gc};
use serde_json::{Value, json};

/// The beat of the other hosts of these tests.
const BEAT: Duration = Duration::from_millis(40);

/// Writes the lease of a process on another host; `beats` is how often it has shown that it lives.
fn foreign(path: &Path, id: &str, beats: u64) {
    let owner = json!({
        "id": id, "host": "node7", "place": "another boot", "pid": 4711, "started": 1, "what": "dcsft run sweep",
        "beat_ms": BEAT.as_millis() as u64,
    });
    fs::write(path, format!("{owner}\n{beats:020}\n")).unwrap();
}

fn owner(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

#[test]
fn a_lease_is_for_one_and_ends_when_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.lease");
    let lease = Lease::take(&path, "first").unwrap().unwrap();
    assert!(lease.is_held());
    let words = Lease::take(&path, "second").unwrap().unwrap_err();
    assert!(
        words.starts_with(&format!("process {} on ", std::process::id())),
        "{words}"
    );
    assert!(words.ends_with(" (first)"), "{words}");
    drop(lease);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let again = Lease::take(&path, "second").unwrap().unwrap();
    assert!(again.is_held());
}

#[test]
fn of_many_that_want_a_lease_one_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.lease");
    for _ in 0..50 {
        let taken: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Lease::take(&path, "").unwrap().ok()))
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(taken.len(), 1);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn another_host_is_waited_for_while_it_beats_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.lease");
    let began = Instant::now();
    for beats in 0..20 {
        foreign(&path, "theirs", beats);
        let words = Lease::take(&path, "mine").unwrap().unwrap_err();
        assert_eq!(words, "process 4711 on node7 (dcsft run sweep)");
        std::thread::sleep(BEAT);
    }
    assert!(began.elapsed() > BEAT * 4, "it was waited for long enough");
    // Now it stands still.
    let still = Instant::now();
    let lease = loop {
        match Lease::take(&path, "mine").unwrap() {
            Ok(lease) => break lease,
            Err(_) => std::thread::sleep(BEAT / 4),
        }
    };
    assert!(still.elapsed() >= BEAT * 3, "{:?}", still.elapsed());
    assert!(lease.is_held());
    assert_eq!(owner(&path)["pid"], std::process::id());
}

#[test]
fn a_process_that_is_gone_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.lease");
    drop(Lease::take(&path, "").unwrap().unwrap());
    // A process of this system that has ended: this one, started at another time.
    let lease = Lease::take(&path, "").unwrap().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let started = format!("\"started\":{}", owner(&path)["started"]);
    std::mem::forget(lease);
    fs::write(&path, text.replace(&started, "\"started\":1")).unwrap();
    assert!(Lease::take(&path, "").unwrap().unwrap().is_held());
}

#[test]
fn what_comes_back_after_it_was_taken_for_dead_has_lost_its_lease_and_leaves_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.lease");
    let frozen = Lease::take(&path, "frozen").unwrap().unwrap();
    // What another host does that has not seen it beat.
    fs::remove_file(&path).unwrap();
    foreign(&path, "theirs", 0);
    assert!(!frozen.is_held());
    drop(frozen);
    assert_eq!(owner(&path)["id"], "theirs");
}

#[test]
fn a_key_that_another_host_has_is_locked_whatever_the_lock_says() {
    let bench = Bench::new();
    let lease = bench.inside("locks").join(format!("{}.lease", key("a")));
    foreign(&lease, "theirs", 0);
    assert!(bench.store.try_lock(&key("a")).unwrap().is_none());
    let began = Instant::now();
    // It never beats.
    let lock = bench.store.lock(&key("a"), || ()).unwrap();
    assert!(began.elapsed() >= BEAT * 3);
    assert!(lock.is_held());
    foreign(&lease, "theirs", 1);
    assert!(!lock.is_held());
}

#[test]
fn collection_waits_for_holders_on_other_hosts() {
    let bench = Bench::new();
    let holder = bench.inside("locks/holders/theirs.lease");
    foreign(&holder, "theirs", 0);
    let error = gc::collect(&bench.store, &gc::Policy::default()).unwrap_err();
    let StoreError::InUse { holders, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*holders, ["process 4711 on node7 (dcsft run sweep)"]);
    // Untouched for an hour: nobody is there.
    let long_ago =
        fs::FileTimes::new().set_modified(std::time::SystemTime::now() - Duration::from_secs(3600));
    let file = fs::File::options().write(true).open(&holder).unwrap();
    file.set_times(long_ago).unwrap();
    drop(file);
    gc::collect(&bench.store, &gc::Policy::default()).unwrap();
    assert!(!holder.exists());
}

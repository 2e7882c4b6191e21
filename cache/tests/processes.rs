//! Several processes on one store, some of which are killed.
//!
//! The ignored tests are the other processes: this binary started again with a store to work on.

#![allow(clippy::print_stdout)] // How one process tells the other that it is ready.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Bench, child, hostname, key, names, parents_store, record};
use dcsft_cache::{StoreError, gc, verify};

/// Starts another process and waits until it says that it is ready.
fn start(name: &str, bench: &Bench) -> Child {
    let mut child = child(name, bench.store.root())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map(Result::unwrap).any(|line| line.contains("ready"));
    assert!(ready, "{name} ended before it was ready");
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn stay() -> ! {
    println!("ready");
    loop {
        thread::park();
    }
}

#[test]
#[ignore = "another process of the tests below"]
fn holds_a_key() {
    let Some(store) = parents_store() else { return };
    let _lock = store.lock(&key("a"), || ()).unwrap();
    stay();
}

#[test]
#[ignore = "another process of the tests below"]
fn holds_the_store() {
    let Some(store) = parents_store() else { return };
    let _guard = store.hold("dcsft run sweep.yaml").unwrap();
    stay();
}

#[test]
#[ignore = "another process of the tests below"]
fn publishes_without_end() {
    let Some(store) = parents_store() else { return };
    println!("ready");
    for round in 0.. {
        let key = key(&format!("{}-{round}", std::process::id()));
        let out = store.workspace(&key).unwrap().join("out");
        fs::create_dir_all(out.join("sub")).unwrap();
        // Some files are in every artifact, some in one only.
        fs::write(out.join("same"), b"the same bytes each time").unwrap();
        fs::write(
            out.join("sub/own"),
            format!("round {round} of {}", std::process::id()),
        )
        .unwrap();
        fs::write(out.join("sub/large"), vec![(round % 3) as u8; 100_000]).unwrap();
        let artifact = store.publish(&out).unwrap();
        store
            .commit(&record(&key, &[("out", &artifact)], 1.0))
            .unwrap();
        store.clear_workspace(&key).unwrap();
    }
}

#[test]
fn a_key_is_locked_until_its_process_dies() {
    let bench = Bench::new();
    let other = start("holds_a_key", &bench);
    assert!(bench.store.try_lock(&key("a")).unwrap().is_none());
    assert!(bench.store.try_lock(&key("b")).unwrap().is_some());
    assert_eq!(
        bench.store.lock_holder(&key("a")),
        Some(format!("process {}", other.id()))
    );
    kill(other);
    let lock = bench.store.lock(&key("a"), || ()).unwrap();
    assert_eq!(*lock.key(), key("a"));
}

#[test]
fn whoever_waits_for_a_key_is_told_so_and_gets_it() {
    let bench = Bench::new();
    let other = start("holds_a_key", &bench);
    let mut other = Some(other);
    // The waiting itself sets off what ends it.
    let lock = bench
        .store
        .lock(&key("a"), || kill(other.take().unwrap()))
        .unwrap();
    drop(lock);
    assert!(other.is_none(), "the lock was free at once");
}

#[test]
fn threads_that_want_one_key_compute_it_once() {
    let bench = Bench::new();
    let computed = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let _lock = bench.store.lock(&key("a"), || ()).unwrap();
                if bench.store.lookup(&key("a")).unwrap().is_none() {
                    computed.fetch_add(1, Ordering::Relaxed);
                    bench.compute(&key("a"), &[("f", b"1")], 1.0);
                }
            });
        }
    });
    assert_eq!(computed.into_inner(), 1);
}

#[test]
fn locks_are_sound_while_their_files_are_removed() {
    let bench = Bench::new();
    let inside = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let lock = bench.store.lock(&key("a"), || ()).unwrap();
                    assert_eq!(
                        inside.fetch_add(1, Ordering::SeqCst),
                        0,
                        "two holders of one lock"
                    );
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..200 {
                gc::collect(&bench.store, &gc::Policy::default()).unwrap();
            }
        });
    });
}

#[test]
fn whoever_waited_for_a_removed_lock_holds_the_new_one() {
    let bench = Bench::new();
    let first = bench.store.lock(&key("a"), || ()).unwrap();
    let (waits, waiting) = mpsc::channel();
    thread::scope(|scope| {
        let second = scope.spawn(|| {
            bench
                .store
                .lock(&key("a"), || waits.send(()).unwrap())
                .unwrap()
        });
        waiting.recv().unwrap();
        // Time for it to open the file that is about to be removed.
        thread::sleep(Duration::from_millis(100));
        fs::remove_file(bench.inside("locks").join(format!("{}.lock", key("a")))).unwrap();
        drop(first);
        let second = second.join().unwrap();
        assert!(
            bench.store.try_lock(&key("a")).unwrap().is_none(),
            "two holders of one lock"
        );
        drop(second);
    });
}

#[test]
fn threads_that_publish_the_same_bytes_get_the_same_artifact() {
    let bench = Bench::new();
    let digests: Vec<_> = thread::scope(|scope| {
        let publish = |i: usize| {
            let out = bench.folder(&format!("out{i}"), &[("f", b"same"), ("g/h", &[1; 70_000])]);
            bench.store.publish(&out).unwrap().digest
        };
        let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || publish(i))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    assert_eq!(bench.store.usage().unwrap().artifacts, 1);
    assert_eq!(verify::verify(&bench.store, |_| ()).unwrap().damaged, []);
    assert_eq!(names(&bench.inside("tmp")), [""; 0]);
}

#[test]
fn collection_says_whom_it_waits_for() {
    let bench = Bench::new();
    let other = start("holds_the_store", &bench);
    let error = gc::collect(&bench.store, &gc::Policy::default()).unwrap_err();
    let StoreError::InUse { holders, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        *holders,
        [format!(
            "process {} on {} (dcsft run sweep.yaml)",
            other.id(),
            hostname()
        )]
    );
    gc::collect(
        &bench.store,
        &gc::Policy {
            dry_run: true,
            ..gc::Policy::default()
        },
    )
    .unwrap();
    kill(other);
    gc::collect(&bench.store, &gc::Policy::default()).unwrap();
    let guards = [(); 2].map(|()| bench.store.hold("a second run").unwrap());
    let Err(StoreError::InUse { holders, .. }) = gc::collect(&bench.store, &gc::Policy::default())
    else {
        panic!("it does not wait")
    };
    assert_eq!(
        holders,
        [format!(
            "process {} on {} (a second run)",
            std::process::id(),
            hostname()
        )]
    );
    drop(guards);
    gc::collect(&bench.store, &gc::Policy::default()).unwrap();
}

#[test]
fn kills_leave_nothing_but_garbage() {
    let bench = Bench::new();
    for round in 0..12u64 {
        let others = [
            start("publishes_without_end", &bench),
            start("publishes_without_end", &bench),
        ];
        // Not a measurement: the spread makes the kills hit different steps.
        thread::sleep(Duration::from_millis(20 + 7 * round));
        others.into_iter().for_each(kill);
        for record in bench.store.records().unwrap() {
            let record = record.unwrap();
            assert!(
                bench.store.lookup_verified(&record.key).unwrap().is_some(),
                "a record without its artifact"
            );
        }
    }
    let before = verify::verify(&bench.store, |_| ()).unwrap();
    assert_eq!(before.damaged, []);
    let records = bench.store.usage().unwrap().records;
    assert!(records > 0, "no process came as far as a commit");

    gc::collect(&bench.store, &gc::Policy::default()).unwrap();
    let usage = bench.store.usage().unwrap();
    assert_eq!(
        (usage.tmp_bytes, usage.records, usage.artifacts),
        (0, records, records)
    );
    assert_eq!(names(&bench.inside("tmp")), [""; 0]);
    assert_eq!(bench.quarantined(), [""; 0]);
}

#[test]
fn a_folder_in_the_place_of_a_locks_file_makes_way() {
    let bench = Bench::new();
    drop(bench.store.hold("a run").unwrap());
    for name in ["store.lock".to_owned(), format!("{}.lock", key("a"))] {
        let path = bench.inside("locks").join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        drop(bench.store.hold("a run").unwrap());
        drop(bench.store.lock(&key("a"), || ()).unwrap());
    }
}

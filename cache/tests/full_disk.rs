//! A full disk: a clear error, nothing half-written in sight, and all well once there is space. A disk that became
//! read-only: a clear error, and what is there can still be used.
//!
//! The tests need a small file system of its own, which Linux lets a user mount in a name space.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout)] // A skipped test says why.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{child, key, names, parents_store, record};
use dcsft_cache::{Store, StoreError, verify};

/// Says why a test is not run. Continuous integration can run all of them, and has to.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    println!("skipped: {why}");
}

/// Runs the ignored test `name` with a store on a file system of 1 MiB; says why where none can be mounted.
fn on_small_disk(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let inner = child(name, &small.join("cache"));
    let script =
        r#"mount -t tmpfs -o size=1m tmpfs "$0" || { echo cannot mount; exit 0; }; exec "$@""#;
    let mut outer = Command::new("unshare");
    outer
        .args(["-rm", "sh", "-c", script])
        .arg(&small)
        .arg(inner.get_program())
        .args(inner.get_args());
    outer.envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let Ok(output) = outer.output() else {
        return skip("there is no `unshare` to mount a small file system with");
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if text.contains("cannot mount") || text.contains("unshare: ") {
        return skip(&format!(
            "a small file system cannot be mounted here: {text}"
        ));
    }
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
fn a_full_disk_costs_nothing_but_time() {
    on_small_disk("works_on_a_full_disk");
}

#[test]
fn a_read_only_cache_can_still_be_used() {
    on_small_disk("works_on_a_read_only_disk");
}

#[test]
#[ignore = "another process of the test above"]
fn works_on_a_read_only_disk() {
    let Some(store) = parents_store() else { return };
    let disk = store.root().parent().unwrap().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let artifact = store.publish(&output(&disk.join("out"))).unwrap();
    store
        .commit(&record(&key("a"), &[("out", &artifact)], 1.0))
        .unwrap();
    let mounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(&disk)
        .status()
        .unwrap();
    assert!(mounted.success());

    let store = Store::open(store.root()).unwrap();
    let guard = store.hold("a reader").unwrap();
    assert!(store.lookup_verified(&key("a")).unwrap().is_some());
    let files = store.open_input(&artifact.digest).unwrap();
    assert_eq!(fs::read(files.join("small")).unwrap(), b"small");
    assert_eq!(verify::verify(&store, |_| ()).unwrap().damaged, []);
    drop(guard);
    let out = output(&elsewhere.path().join("out"));
    fs::write(out.join("small"), b"other").unwrap();
    let error = store.publish(&out).unwrap_err();
    assert!(matches!(error, StoreError::Permission { .. }), "{error}");
    assert_eq!(
        names(&out),
        ["large", "small"],
        "the maker still has its output"
    );
}

#[test]
#[ignore = "another process of the test above"]
fn works_on_a_full_disk() {
    let Some(store) = parents_store() else { return };
    let disk = store.root().parent().unwrap().to_owned();
    let filler = disk.join("filler");

    let same_disk = output(&disk.join("out"));
    let elsewhere = tempfile::tempdir().unwrap();
    let other_disk = output(&elsewhere.path().join("out"));
    for out in [&same_disk, &other_disk] {
        fill(&filler);
        let error = store.publish(out).unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        assert_eq!(
            names(out),
            ["large", "small"],
            "the maker still has its output"
        );
        nothing_in_sight(&store);
        fs::remove_file(&filler).unwrap();
    }
    let artifact = store.publish(&same_disk).unwrap();
    assert_eq!(store.publish(&other_disk).unwrap(), artifact);

    fill(&filler);
    let error = store
        .commit(&record(&key("a"), &[("out", &artifact)], 1.0))
        .unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert_eq!(store.lookup(&key("a")).unwrap(), None);
    fs::remove_file(&filler).unwrap();
    store
        .commit(&record(&key("a"), &[("out", &artifact)], 1.0))
        .unwrap();
    assert!(store.lookup_verified(&key("a")).unwrap().is_some());
    assert_eq!(verify::verify(&store, |_| ()).unwrap().damaged, []);
}

fn output(folder: &Path) -> std::path::PathBuf {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("large"), [1; 100_000]).unwrap();
    fs::write(folder.join("small"), b"small").unwrap();
    folder.to_owned()
}

/// Writes to `path` until the disk is full.
fn fill(path: &Path) {
    let error = fs::write(path, vec![0; 2 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

fn nothing_in_sight(store: &Store) {
    let usage = store.usage().unwrap();
    assert_eq!((usage.artifacts, usage.blobs, usage.tmp_bytes), (0, 0, 0));
}

//! Digests of users' files and folders: by content, and never by a stale memory.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::{Bench, names};
use dcsft_cache::{Digest, StoreError};

/// Longer than a file must rest before its digest is remembered.
const REST: Duration = Duration::from_millis(2200);

fn set_modified(path: &Path, time: SystemTime) {
    File::options()
        .append(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

#[test]
fn a_file_enters_by_its_bytes_and_a_folder_as_an_artifact_would() {
    let bench = Bench::new();
    let files: &[(&str, &[u8])] = &[("train.json", b"[]"), ("images/0.png", b"png")];
    let folder = bench.folder("data", files);
    let (digest, stats) = bench
        .store
        .digest_path(&folder.join("train.json"), false)
        .unwrap();
    assert_eq!(digest, Digest::of_bytes(b"[]"));
    assert_eq!((stats.files, stats.bytes), (1, 2));
    let (digest, stats) = bench.store.digest_path(&folder, false).unwrap();
    assert_eq!((stats.files, stats.bytes), (2, 5));
    assert_eq!(digest, bench.publish(files).digest);
}

#[test]
fn a_folder_changes_with_each_name_and_byte_but_not_with_times_or_empty_folders() {
    let bench = Bench::new();
    let digest = |folder: &Path| bench.store.digest_path(folder, false).unwrap().0;
    let folder = bench.folder("data", &[("a", b"1"), ("b", b"2")]);
    let first = digest(&folder);
    fs::create_dir(folder.join("empty")).unwrap();
    set_modified(&folder.join("a"), SystemTime::UNIX_EPOCH);
    assert_eq!(digest(&folder), first);
    fs::rename(folder.join("b"), folder.join("c")).unwrap();
    assert_ne!(digest(&folder), first);
    fs::rename(folder.join("c"), folder.join("b")).unwrap();
    assert_eq!(digest(&folder), first);
    fs::write(folder.join("d"), b"").unwrap();
    assert_ne!(digest(&folder), first);
    assert_eq!(
        digest(&bench.folder("moved", &[("a", b"1"), ("b", b"2")])),
        first
    );
}

#[test]
fn files_that_rested_are_not_read_again_until_they_change() {
    let bench = Bench::new();
    let folder = bench.folder("data", &[("a", b"one"), ("b", b"two")]);
    thread::sleep(REST);
    let digest = |paranoid| bench.store.digest_path(&folder, paranoid).unwrap();
    let (first, stats) = digest(false);
    assert_eq!(stats.hashed_files, 2);
    assert_eq!(digest(false).1.hashed_files, 0);
    assert_eq!(digest(false).0, first);
    let (again, stats) = digest(true);
    assert_eq!(
        (again, stats.hashed_files, stats.hashed_bytes),
        (first, 2, 6)
    );

    // Same size, same time of last write: only the inode's own time tells.
    let path = folder.join("a");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, b"eno").unwrap();
    set_modified(&path, modified);
    let (changed, stats) = digest(false);
    assert_ne!(changed, first);
    assert_eq!(stats.hashed_files, 1);
    assert_eq!(digest(true).0, changed);

    // Another file moved in its place, with the same size and time.
    let other = folder.join("other");
    fs::write(&other, b"one").unwrap();
    set_modified(&other, modified);
    fs::rename(&other, &path).unwrap();
    assert_eq!(digest(false).0, first);
}

/// Within the resolution of the file system's clock a second write leaves size and times as they were. So the digest of
/// a file that was written a moment ago must not be remembered.
#[test]
fn a_file_that_was_just_written_is_read_again() {
    let bench = Bench::new();
    let path = bench.path("file");
    let hashed_files = || {
        bench
            .store
            .digest_path(&path, false)
            .unwrap()
            .1
            .hashed_files
    };
    loop {
        let began = Instant::now();
        fs::write(&path, b"new").unwrap();
        assert_eq!(hashed_files(), 1);
        // On a machine that stood still the file did rest.
        if began.elapsed() < REST / 2 {
            break;
        }
    }
    assert_eq!(hashed_files(), 1);
    thread::sleep(REST);
    assert_eq!(hashed_files(), 1);
    assert_eq!(hashed_files(), 0);
}

#[test]
fn a_broken_memory_is_only_forgotten() {
    let bench = Bench::new();
    let folder = bench.folder("data", &[("a", b"one"), ("b\nc\"d", b"two")]);
    let (first, _) = bench.store.digest_path(&folder, false).unwrap();
    let memory = bench
        .inside("stat-cache")
        .join(&names(&bench.inside("stat-cache"))[0]);
    for text in [
        &b"{"[..],
        b"",
        b"{\"format\":99,\"path\":\"/\"}\n[]\n",
        &[0xff; 100],
    ] {
        fs::write(&memory, text).unwrap();
        assert_eq!(bench.store.digest_path(&folder, false).unwrap().0, first);
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_are_named() {
    let bench = Bench::new();
    let real = bench.folder("real", &[("x.png", b"1")]);
    let folder = bench.folder("data", &[]);
    std::os::unix::fs::symlink(&real, folder.join("images")).unwrap();
    let (digest, _) = bench.store.digest_path(&folder, false).unwrap();
    assert_eq!(digest, bench.publish(&[("images/x.png", b"1")]).digest);
    std::os::unix::fs::symlink(&real, bench.path("alias")).unwrap();
    let alias = bench
        .store
        .digest_path(&bench.path("alias"), false)
        .unwrap();
    assert_eq!(alias.0, bench.store.digest_path(&real, false).unwrap().0);

    std::os::unix::fs::symlink(&folder, folder.join("loop")).unwrap();
    let error = bench.store.digest_path(&folder, false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("loop is a symbolic link to a folder above itself"),
        "{error}"
    );
}

#[test]
fn a_path_that_does_not_exist_is_named() {
    let bench = Bench::new();
    let error = bench
        .store
        .digest_path(&bench.path("nowhere"), false)
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::NotFound { path } if *path == bench.path("nowhere")),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn a_name_without_a_portable_form_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let folder = bench.folder("data", &[]);
    fs::write(folder.join(std::ffi::OsStr::from_bytes(b"\xff.png")), b"").unwrap();
    let error = bench.store.digest_path(&folder, false).unwrap_err();
    assert!(error.to_string().contains("not valid UTF-8"), "{error}");
}

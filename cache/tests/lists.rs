//! Digests of many files at once.

mod common;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use common::{Bench, names};
use dcsft_cache::Digest;

/// Longer than a file must rest before its digest is remembered.
const REST: Duration = Duration::from_millis(2200);

#[test]
fn a_list_gives_each_path_its_digest_and_absent_ones_none() {
    let bench = Bench::new();
    let folder = bench.folder("data", &[("a", b"one"), ("b", b"two"), ("sub/c", b"three")]);
    let paths: Vec<PathBuf> = ["b", "missing", "sub", "a", "sub/c", "none/at/all", "a"]
        .map(|name| folder.join(name))
        .to_vec();
    let alone = |path: &PathBuf| {
        let digest = bench.store.digest_path(path, false);
        digest.ok().map(|(digest, _)| digest)
    };
    let expected: Vec<Option<Digest>> = paths.iter().map(alone).collect();
    assert_eq!(bench.store.digest_files(&paths, false).unwrap(), expected);
    assert_eq!(expected[3], Some(Digest::of_bytes(b"one")));
    assert_eq!((expected[1], expected[5]), (None, None));
    assert_eq!(bench.store.digest_files(&paths, true).unwrap(), expected);
}

#[test]
fn a_name_that_no_file_can_have_is_absent_and_keeps_no_other_from_being_read() {
    let bench = Bench::new();
    let folder = bench.folder("data", &[("a", b"one")]);
    let long = "x".repeat(300);
    let paths: Vec<PathBuf> = ["a\0", &long, "a/b", &format!("{long}/b"), "a"]
        .map(|name| folder.join(name))
        .to_vec();
    let one = Some(Digest::of_bytes(b"one"));
    assert_eq!(
        bench.store.digest_files(&paths, false).unwrap(),
        [None, None, None, None, one]
    );
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_are_absent_and_a_link_to_a_file_is_that_file() {
    use std::os::unix::fs::symlink;

    let bench = Bench::new();
    let folder = bench.folder("data", &[("a", b"one")]);
    symlink("left", folder.join("right")).unwrap();
    symlink("right", folder.join("left")).unwrap();
    symlink("a", folder.join("link")).unwrap();
    let paths: Vec<PathBuf> = ["left", "link", "right", "left/b"]
        .map(|name| folder.join(name))
        .to_vec();
    let one = Some(Digest::of_bytes(b"one"));
    assert_eq!(
        bench.store.digest_files(&paths, false).unwrap(),
        [None, one, None, None]
    );
}

#[test]
fn files_of_one_folder_share_a_memory_that_paranoia_ignores() {
    let bench = Bench::new();
    let files: Vec<(String, Vec<u8>)> = (0..100)
        .map(|index| (format!("{index}.png"), vec![index]))
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    let folder = bench.folder("images", &files);
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| folder.join(name)).collect();
    thread::sleep(REST);
    let first = bench.store.digest_files(&paths, false).unwrap();
    let memories = bench.inside("stat-cache");
    assert_eq!(names(&memories).len(), 1);

    // A memory that says something else, with the right digest of itself, shows who believes it.
    let memory = memories.join(&names(&memories)[0]);
    let wrong = Digest::of_bytes(b"wrong");
    let text = fs::read_to_string(&memory).unwrap();
    let text = text.replace(&Digest::of_bytes(&[7]).to_string(), &wrong.to_string());
    fs::write(&memory, &text).unwrap();
    assert_eq!(
        bench.store.digest_files(&paths, false).unwrap(),
        first,
        "it was changed by chance"
    );
    let (body, _) = text.split_at(text.trim_end().rfind('\n').unwrap() + 1);
    let sealed = format!("{body}blake3 {}\n", Digest::of_bytes(body.as_bytes()));
    fs::write(&memory, sealed).unwrap();
    assert_eq!(
        bench.store.digest_files(&paths[5..10], false).unwrap()[2],
        Some(wrong)
    );
    assert_eq!(bench.store.digest_files(&paths, true).unwrap(), first);

    // Another list of the same folder keeps what is remembered of the others; an edit is noticed.
    fs::write(&paths[3], b"edited").unwrap();
    let edited = bench.store.digest_files(&paths[..5], false).unwrap();
    assert_eq!(edited[3], Some(Digest::of_bytes(b"edited")));
    assert_eq!(
        (edited[..3].to_vec(), edited[4]),
        (first[..3].to_vec(), first[4])
    );
    assert!(fs::read_to_string(&memory).unwrap().contains("\"99.png\""));
}

//! Publishing, committing and looking up.

mod common;

use std::fs::{self, File};

use common::{Bench, key, names, overwrite, record, seconds};
use dcsft_cache::{Artifact, Digest, FileEntry, OutputRef, Store, StoreError};

#[test]
fn a_published_folder_can_be_browsed_and_is_gone_from_where_it_was() {
    let bench = Bench::new();
    let out = bench.folder(
        "out",
        &[
            ("loss.csv", b"1,2"),
            ("step-10/weights.bin", b"w"),
            ("step-10/a/b.txt", b""),
        ],
    );
    fs::create_dir(out.join("empty")).unwrap();
    let artifact = bench.store.publish(&out).unwrap();

    assert!(!out.exists());
    let files = bench.store.artifact_files(&artifact.digest);
    assert_eq!(names(&files), ["loss.csv", "step-10"]);
    assert_eq!(fs::read(files.join("loss.csv")).unwrap(), b"1,2");
    assert_eq!(fs::read(files.join("step-10/weights.bin")).unwrap(), b"w");
    assert_eq!(bench.store.open_input(&artifact.digest).unwrap(), files);
    assert!(
        fs::metadata(files.join("loss.csv"))
            .unwrap()
            .permissions()
            .readonly()
    );
    assert_eq!(names(&bench.inside("tmp")), [""; 0]);

    let entry = |path: &str, bytes: &[u8]| FileEntry {
        path: path.into(),
        bytes: bytes.len() as u64,
        digest: Digest::of_bytes(bytes),
    };
    let expected = [
        entry("loss.csv", b"1,2"),
        entry("step-10/a/b.txt", b""),
        entry("step-10/weights.bin", b"w"),
    ];
    assert_eq!(artifact.files, expected);
    assert_eq!(artifact.bytes, 4);
    assert_eq!(
        bench.store.artifact(&artifact.digest).unwrap(),
        Some(artifact)
    );
}

#[test]
fn an_artifact_is_its_paths_and_bytes_and_nothing_else() {
    let bench = Bench::new();
    let first = bench.publish(&[("a", b"1"), ("b", b"2")]);
    assert_eq!(
        bench.publish(&[("b", b"2"), ("a", b"1")]).digest,
        first.digest
    );
    assert_ne!(
        bench.publish(&[("a", b"2"), ("b", b"1")]).digest,
        first.digest
    );
    assert_ne!(
        bench.publish(&[("a", b"1"), ("c", b"2")]).digest,
        first.digest
    );
    assert_ne!(bench.publish(&[("a", b"12")]).digest, first.digest);
    assert_ne!(
        bench.publish(&[("x/y", b"1")]).digest,
        bench.publish(&[("x", b"1")]).digest
    );
}

/// Published data refers to artifacts by these digests; see the note at the golden digests of canonical bytes.
#[test]
fn the_digests_of_artifacts_have_not_changed() {
    let bench = Bench::new();
    assert_eq!(
        bench.publish(&[]).digest.to_string(),
        "a03613e31a62d2a3671f16c6f52b8cf5bb825847cc1611ad06e393b1d57b2933"
    );
    assert_eq!(
        bench
            .publish(&[("a/b.txt", b"hello"), ("c", b"")])
            .digest
            .to_string(),
        "bf1183de4272cbed3b46d6b841244d1e17bd5c66b64731a5618bf5e530fe08dd"
    );
}

#[cfg(unix)]
#[test]
fn equal_files_share_their_bytes_on_the_disk() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    let one = bench.publish(&[("a", b"same"), ("b", b"same")]);
    let two = bench.publish(&[("c", b"same"), ("d", b"other")]);
    let inode = |artifact: &Artifact, name: &str| {
        fs::metadata(bench.store.artifact_files(&artifact.digest).join(name))
            .unwrap()
            .ino()
    };
    assert_eq!(inode(&one, "a"), inode(&one, "b"));
    assert_eq!(inode(&one, "a"), inode(&two, "c"));
    assert_eq!(bench.store.usage().unwrap().blobs, 2);
    assert_eq!(bench.store.usage().unwrap().blob_bytes, 9);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_file_of_an_input_is_taken_over_without_reading_it() {
    let bench = Bench::new();
    let large = vec![7u8; 100_000];
    let first = bench.publish(&[("weights", &large)]);
    let stored = bench
        .store
        .open_input(&first.digest)
        .unwrap()
        .join("weights");
    // Were it read, its digest would now be another one.
    let modified = fs::metadata(&stored).unwrap().modified().unwrap();
    let mut changed = large.clone();
    changed[0] = 8;
    overwrite(&stored, &changed);
    File::open(&stored).unwrap().set_modified(modified).unwrap();
    let out = bench.folder("out", &[("note", b"n")]);
    fs::hard_link(&stored, out.join("copy")).unwrap();
    let second = bench.store.publish(&out).unwrap();
    assert_eq!(second.files[0].digest, Digest::of_bytes(&large));
    // Whoever opens it reads it.
    assert!(matches!(
        bench.store.open_input(&second.digest),
        Err(StoreError::Damaged { .. })
    ));
}

#[cfg(unix)]
#[test]
fn a_link_to_a_stored_file_that_was_written_to_enters_with_the_bytes_it_has() {
    let bench = Bench::new();
    let first = bench.publish(&[("weights", &[7u8; 100_000])]);
    let stored = bench
        .store
        .open_input(&first.digest)
        .unwrap()
        .join("weights");
    overwrite(&stored, &[8; 99_999]);
    let out = bench.folder("out", &[]);
    fs::hard_link(&stored, out.join("copy")).unwrap();
    let second = bench.store.publish(&out).unwrap();
    assert_eq!(second.files[0].digest, Digest::of_bytes(&[8; 99_999]));
    let copy = bench.store.open_input(&second.digest).unwrap().join("copy");
    assert_eq!(fs::read(copy).unwrap(), [8; 99_999]);
}

#[cfg(unix)]
#[test]
fn a_file_with_another_name_elsewhere_cannot_change_under_the_store() {
    let bench = Bench::new();
    let out = bench.folder("out", &[("state", b"step 1")]);
    let elsewhere = bench.path("state");
    fs::hard_link(out.join("state"), &elsewhere).unwrap();
    let artifact = bench.store.publish(&out).unwrap();
    fs::write(&elsewhere, b"step 2").unwrap();
    let files = bench.store.open_input(&artifact.digest).unwrap();
    assert_eq!(fs::read(files.join("state")).unwrap(), b"step 1");
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_and_nothing_is_taken() {
    let bench = Bench::new();
    let out = bench.folder("out", &[("file", b"x")]);
    std::os::unix::fs::symlink("file", out.join("link")).unwrap();
    let error = bench.store.publish(&out).unwrap_err();
    assert!(
        matches!(
            &error,
            StoreError::Unsupported {
                kind: "a symbolic link",
                ..
            }
        ),
        "{error}"
    );
    fs::remove_file(out.join("link")).unwrap();

    let _socket = std::os::unix::net::UnixListener::bind(out.join("socket")).unwrap();
    let error = bench.store.publish(&out).unwrap_err();
    assert!(
        matches!(
            &error,
            StoreError::Unsupported {
                kind: "a socket",
                ..
            }
        ),
        "{error}"
    );
    fs::remove_file(out.join("socket")).unwrap();

    fs::write(out.join("back\\slash"), b"").unwrap();
    let error = bench.store.publish(&out).unwrap_err();
    assert!(matches!(&error, StoreError::BadName { .. }), "{error}");

    assert_eq!(names(&out), ["back\\slash", "file"]);
    assert_eq!(bench.store.usage().unwrap().artifacts, 0);
}

#[test]
fn only_folders_that_exist_can_be_published() {
    let bench = Bench::new();
    let error = bench.store.publish(&bench.path("nowhere")).unwrap_err();
    assert!(matches!(&error, StoreError::NotFound { .. }), "{error}");
    fs::write(bench.path("file"), b"x").unwrap();
    let error = bench.store.publish(&bench.path("file")).unwrap_err();
    assert!(error.to_string().contains("not a folder"), "{error}");
}

#[test]
fn an_artifact_of_many_files_is_whole() {
    let bench = Bench::new();
    let files: Vec<(String, Vec<u8>)> = (0..300)
        .map(|i| {
            (
                format!("{}/{i}.png", i % 7),
                format!("image {i}").into_bytes(),
            )
        })
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    let artifact = bench.publish(&files);
    let folder = bench.store.open_input(&artifact.digest).unwrap();
    for (path, bytes) in files {
        assert_eq!(fs::read(folder.join(path)).unwrap(), bytes);
    }
}

#[test]
fn a_committed_record_is_found_as_it_was() {
    let bench = Bench::new();
    let key = key("a");
    assert_eq!(bench.store.lookup(&key).unwrap(), None);
    let (model, log) = (
        bench.publish(&[("weights", b"w")]),
        bench.publish(&[("log", b"l")]),
    );
    let written = record(&key, &[("model", &model), ("log", &log)], 12.5);
    bench.store.commit(&written).unwrap();

    assert_eq!(bench.store.lookup(&key).unwrap(), Some(written.clone()));
    assert_eq!(
        bench.store.lookup_verified(&key).unwrap(),
        Some(written.clone())
    );
    assert_eq!(seconds(&written), 12.5);
    assert_eq!(
        written.outputs["model"],
        OutputRef {
            digest: model.digest,
            bytes: 1,
            files: 1
        }
    );
    let reopened = Store::open(bench.store.root()).unwrap();
    assert_eq!(reopened.lookup(&key).unwrap(), Some(written));
}

#[test]
fn a_record_can_be_replaced() {
    let bench = Bench::new();
    bench.compute(&key("a"), &[("f", b"1")], 1.0);
    let second = bench.compute(&key("a"), &[("f", b"2")], 2.0);
    let found = bench.store.lookup(&key("a")).unwrap().unwrap();
    assert_eq!(found.outputs["out"].digest, second.digest);
    assert_eq!(bench.store.usage().unwrap().records, 1);
}

#[test]
fn many_look_ups_find_what_single_ones_do() {
    let bench = Bench::new();
    let shared = bench.publish(&[("a", b"1")]);
    let own = bench.publish(&[("a", b"2")]);
    let records = [
        record(&key("a"), &[("out", &shared)], 1.0),
        record(&key("b"), &[("out", &shared), ("log", &own)], 1.0),
        record(&key("c"), &[("out", &own)], 1.0),
    ];
    for record in &records {
        bench.store.commit(record).unwrap();
    }
    let lookups = bench.store.lookups();
    for record in &records {
        assert_eq!(lookups.lookup(&record.key).unwrap().as_ref(), Some(record));
    }
    assert_eq!(lookups.lookup(&key("d")).unwrap(), None);

    let files = bench.store.artifact_files(&own.digest);
    fs::remove_dir_all(files.parent().unwrap()).unwrap();
    let lookups = bench.store.lookups();
    let found = ["a", "b", "c"].map(|n| lookups.lookup(&key(n)).unwrap().is_some());
    assert_eq!(found, [true, false, false]);
}

#[test]
fn a_record_is_refused_without_its_artifacts() {
    let bench = Bench::new();
    let elsewhere = Bench::new().publish(&[("f", b"1")]);
    let error = bench
        .store
        .commit(&record(&key("a"), &[("out", &elsewhere)], 1.0))
        .unwrap_err();
    assert!(
        matches!(error, StoreError::MissingArtifact { digest, .. } if digest == elsewhere.digest)
    );
    assert_eq!(bench.store.lookup(&key("a")).unwrap(), None);
}

#[test]
fn records_come_in_the_order_of_their_keys() {
    let bench = Bench::new();
    for name in ["a", "b", "c", "d"] {
        bench.compute(&key(name), &[("f", name.as_bytes())], 1.0);
    }
    let keys: Vec<Digest> = bench
        .store
        .records()
        .unwrap()
        .map(|record| record.unwrap().key)
        .collect();
    assert_eq!(keys.len(), 4);
    assert!(keys.is_sorted());
}

#[test]
fn a_record_of_a_newer_version_is_an_error_and_stays() {
    let bench = Bench::new();
    let mut newer = record(&key("a"), &[], 1.0);
    newer.format += 1;
    bench.store.commit(&newer).unwrap();
    let error = bench.store.lookup(&key("a")).unwrap_err();
    assert!(
        matches!(
            &error,
            StoreError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(bench.record_file(&key("a")).exists());
}

#[test]
fn a_cache_of_a_newer_version_is_an_error_and_stays() {
    let bench = Bench::new();
    fs::create_dir(bench.store.root().join("v2")).unwrap();
    let error = Store::open(bench.store.root()).unwrap_err();
    assert!(
        matches!(
            &error,
            StoreError::NewerLayout {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn the_root_tells_backups_and_git_to_leave_it_out() {
    let bench = Bench::new();
    let tag = fs::read_to_string(bench.store.root().join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    assert_eq!(
        fs::read_to_string(bench.store.root().join(".gitignore")).unwrap(),
        "*\n"
    );
    assert!(bench.store.runs_dir().is_dir());
}

#[test]
fn a_workspace_lasts_until_it_is_cleared() {
    let bench = Bench::new();
    let folder = bench.store.workspace(&key("a")).unwrap();
    fs::write(folder.join("state"), b"step 100").unwrap();
    let again = Store::open(bench.store.root())
        .unwrap()
        .workspace(&key("a"))
        .unwrap();
    assert_eq!(fs::read(again.join("state")).unwrap(), b"step 100");
    bench.store.clear_workspace(&key("a")).unwrap();
    bench.store.clear_workspace(&key("a")).unwrap();
    assert!(!folder.exists());
}

#[test]
fn a_root_that_cannot_be_a_folder_is_named() {
    let bench = Bench::new();
    fs::write(bench.path("file"), b"").unwrap();
    let error = Store::open(&bench.path("file")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&bench.path("file").display().to_string()),
        "{error}"
    );
}

#[test]
fn digests_parse_only_in_their_one_form() {
    let digest = Digest::of_bytes(b"");
    let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(
        (digest.to_string(), digest.short()),
        (text.to_owned(), text[..12].to_owned())
    );
    assert_eq!(text.parse::<Digest>().unwrap(), digest);
    assert_eq!(serde_json::to_value(digest).unwrap(), text);
    assert_eq!(
        serde_json::from_value::<Digest>(text.into()).unwrap(),
        digest
    );
    for bad in [
        &text[..63],
        &text.to_uppercase(),
        "",
        &format!("{}g", &text[..63]),
    ] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
        assert!(
            serde_json::from_value::<Digest>(bad.into()).is_err(),
            "{bad}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_root_that_journals_could_not_name_is_refused_before_it_is_made() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let root = bench
        .path("x")
        .with_file_name(std::ffi::OsStr::from_bytes(b"ca\xffche"));
    let error = Store::open(&root).unwrap_err();
    assert!(
        matches!(&error, StoreError::RootNotUnicode { root: named } if *named == root),
        "{error}"
    );
    assert!(!root.exists());
}

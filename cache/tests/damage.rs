//! Damage on the disk is noticed, moved aside and repaired by computing again.

mod common;

use std::fs;

use common::{Bench, flip, key, names, overwrite};
use dcsft_cache::verify::{self, Kind};
use dcsft_cache::{Artifact, StoreError};

const SMALL: &[u8] = b"a small file";

fn large() -> Vec<u8> {
    (0..200_000u32).map(|i| (i % 251) as u8).collect()
}

/// Computes the key again and checks that all is well then.
fn recovers(bench: &Bench, files: &[(&str, &[u8])], artifact: &Artifact) {
    assert_eq!(
        bench.store.lookup(&key("a")).unwrap(),
        None,
        "the damaged result is not offered"
    );
    assert_eq!(bench.compute(&key("a"), files, 1.0).digest, artifact.digest);
    assert!(bench.store.lookup_verified(&key("a")).unwrap().is_some());
    let folder = bench.store.open_input(&artifact.digest).unwrap();
    for (path, bytes) in files {
        assert_eq!(fs::read(folder.join(path)).unwrap(), *bytes);
    }
    assert_eq!(verify::verify(&bench.store, |_| ()).unwrap().damaged, []);
}

#[test]
fn a_flipped_byte_in_a_small_file_is_noticed_when_it_is_opened() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    flip(&bench.blob(SMALL));
    let error = bench.store.open_input(&artifact.digest).unwrap_err();
    let StoreError::Damaged {
        digest,
        reason,
        quarantined,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*digest, artifact.digest);
    assert!(reason.contains("`f`"), "{reason}");
    assert!(quarantined.join("manifest.json").exists());
    assert!(!bench.blob(SMALL).exists());
    recovers(&bench, &[("f", SMALL)], &artifact);
}

#[test]
fn a_flipped_byte_in_a_small_file_voids_a_verified_look_up() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    flip(&bench.blob(SMALL));
    assert!(bench.store.lookup(&key("a")).unwrap().is_some());
    assert_eq!(bench.store.lookup_verified(&key("a")).unwrap(), None);
    recovers(&bench, &[("f", SMALL)], &artifact);
}

#[test]
fn a_large_file_of_another_size_is_noticed_when_it_is_opened() {
    let bench = Bench::new();
    let large = large();
    let artifact = bench.compute(&key("a"), &[("f", &large)], 1.0);
    overwrite(&bench.blob(&large), &large[1..]);
    assert!(matches!(
        bench.store.open_input(&artifact.digest),
        Err(StoreError::Damaged { .. })
    ));
    recovers(&bench, &[("f", &large)], &artifact);
}

#[test]
fn a_flipped_byte_in_a_large_file_is_noticed_by_verify() {
    let bench = Bench::new();
    let large = large();
    let artifact = bench.compute(&key("a"), &[("f", &large), ("g", SMALL)], 1.0);
    bench.compute(&key("other"), &[("g", SMALL)], 1.0);
    flip(&bench.blob(&large));

    let mut steps = Vec::new();
    let report = verify::verify(&bench.store, |progress| steps.push(*progress)).unwrap();
    let found: Vec<_> = report
        .damaged
        .iter()
        .map(|damage| (damage.kind, damage.digest))
        .collect();
    let expected = [
        (Kind::Blob, artifact.files[0].digest),
        (Kind::Artifact, artifact.digest),
        (Kind::Record, key("a")),
    ];
    assert_eq!(found, expected);
    assert!(
        report
            .damaged
            .iter()
            .all(|damage| damage.quarantined.exists())
    );
    assert_eq!(
        (report.checked, report.bytes),
        (6, (large.len() + SMALL.len()) as u64)
    );
    assert_eq!(
        steps.last().map(|last| (last.done, last.total)),
        Some((6, 6))
    );

    assert!(
        bench
            .store
            .lookup_verified(&key("other"))
            .unwrap()
            .is_some()
    );
    recovers(&bench, &[("f", &large), ("g", SMALL)], &artifact);
}

#[test]
fn a_damaged_copy_of_a_good_blob_is_noticed_by_verify() {
    let bench = Bench::new();
    let large = large();
    let artifact = bench.compute(&key("a"), &[("f", &large)], 1.0);
    let file = bench.store.artifact_files(&artifact.digest).join("f");
    fs::remove_file(&file).unwrap();
    fs::write(&file, &large).unwrap();
    assert_eq!(verify::verify(&bench.store, |_| ()).unwrap().damaged, []);
    flip(&file);
    let damaged = verify::verify(&bench.store, |_| ()).unwrap().damaged;
    let kinds: Vec<_> = damaged.iter().map(|damage| damage.kind).collect();
    assert_eq!(kinds, [Kind::Artifact, Kind::Record]);
    assert!(bench.blob(&large).exists());
    recovers(&bench, &[("f", &large)], &artifact);
}

#[test]
fn verify_of_a_sound_store_changes_nothing() {
    let bench = Bench::new();
    bench.compute(&key("a"), &[("f", &large()), ("g", SMALL)], 1.0);
    let before = bench.store.usage().unwrap();
    assert_eq!(verify::verify(&bench.store, |_| ()).unwrap().damaged, []);
    assert_eq!(bench.store.usage().unwrap(), before);
}

#[test]
fn a_missing_artifact_voids_its_record() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    fs::remove_dir_all(bench.artifact_folder(&artifact.digest)).unwrap();
    assert!(matches!(
        bench.store.open_input(&artifact.digest),
        Err(StoreError::MissingArtifact { .. })
    ));
    assert_eq!(bench.store.lookup(&key("a")).unwrap(), None);
    assert!(bench.quarantined()[0].starts_with("record-"));
    recovers(&bench, &[("f", SMALL)], &artifact);
}

#[test]
fn an_artifact_without_manifest_voids_its_record() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    fs::remove_file(
        bench
            .artifact_folder(&artifact.digest)
            .join("manifest.json"),
    )
    .unwrap();
    recovers(&bench, &[("f", SMALL)], &artifact);
}

#[test]
fn a_truncated_manifest_is_noticed() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    let manifest = bench
        .artifact_folder(&artifact.digest)
        .join("manifest.json");
    let bytes = fs::read(&manifest).unwrap();
    overwrite(&manifest, &bytes[..bytes.len() / 2]);
    assert_eq!(bench.store.artifact(&artifact.digest).unwrap(), None);
    recovers(&bench, &[("f", SMALL)], &artifact);
}

#[test]
fn a_manifest_cannot_point_outside_its_folder() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    let manifest = bench
        .artifact_folder(&artifact.digest)
        .join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    overwrite(&manifest, text.replace(r#""f""#, r#""../../f""#).as_bytes());
    assert!(matches!(
        bench.store.open_input(&artifact.digest),
        Err(StoreError::Damaged { .. })
    ));
    recovers(&bench, &[("f", SMALL)], &artifact);
}

#[test]
fn missing_and_foreign_files_are_named() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", SMALL), ("g", b"g")], 1.0);
    let folder = bench.store.artifact_files(&artifact.digest);
    fs::write(folder.join("foreign"), b"").unwrap();
    let error = bench
        .store
        .open_input(&artifact.digest)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`foreign` is not one of its files"),
        "{error}"
    );
    recovers(&bench, &[("f", SMALL), ("g", b"g")], &artifact);

    fs::remove_file(folder.join("g")).unwrap();
    let error = bench
        .store
        .open_input(&artifact.digest)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`g` is missing"), "{error}");
    recovers(&bench, &[("f", SMALL), ("g", b"g")], &artifact);
}

#[test]
fn every_truncation_and_every_flipped_byte_of_a_record_is_noticed() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    let path = bench.record_file(&key("a"));
    let whole = fs::read(&path).unwrap();
    let truncated = (0..whole.len())
        .step_by(37)
        .map(|length| whole[..length].to_vec());
    let flipped = (0..whole.len()).step_by(11).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    });
    for bytes in truncated.chain(flipped) {
        fs::write(&path, &bytes).unwrap();
        assert_eq!(
            bench.store.lookup(&key("a")).unwrap(),
            None,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        assert!(!path.exists());
    }
    recovers(&bench, &[("f", SMALL)], &artifact);
}

#[test]
fn a_record_under_another_key_is_not_believed() {
    let bench = Bench::new();
    bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    fs::create_dir_all(bench.record_file(&key("b")).parent().unwrap()).unwrap();
    fs::copy(bench.record_file(&key("a")), bench.record_file(&key("b"))).unwrap();
    assert_eq!(bench.store.lookup(&key("b")).unwrap(), None);
    assert!(bench.store.lookup(&key("a")).unwrap().is_some());
}

#[test]
fn a_record_file_is_plain_json() {
    let bench = Bench::new();
    bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    let file: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.record_file(&key("a"))).unwrap()).unwrap();
    assert_eq!(file["record"]["explain"]["with"]["steps"], 300);
}

#[test]
fn a_damaged_blob_is_replaced_when_its_bytes_are_published_again() {
    let bench = Bench::new();
    bench.publish(&[("f", SMALL)]);
    flip(&bench.blob(SMALL));
    let other = bench.publish(&[("g", SMALL)]);
    let folder = bench.store.open_input(&other.digest).unwrap();
    assert_eq!(fs::read(folder.join("g")).unwrap(), SMALL);
}

#[test]
fn what_is_moved_aside_carries_a_note() {
    let bench = Bench::new();
    let artifact = bench.compute(&key("a"), &[("f", SMALL)], 1.0);
    flip(&bench.blob(SMALL));
    bench.store.open_input(&artifact.digest).unwrap_err();
    let notes: Vec<_> = names(&bench.inside("quarantine"))
        .into_iter()
        .filter(|name| name.ends_with(".reason"))
        .collect();
    assert_eq!(notes.len(), bench.quarantined().len());
    let note = fs::read_to_string(bench.inside("quarantine").join(&notes[0])).unwrap();
    assert!(
        note.contains("the bytes of `f` are not those that were stored"),
        "{note}"
    );
}

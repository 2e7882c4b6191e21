//! Damage on the disk is noticed, moved aside and repaired by computing again.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Bench, flip, key, names, overwrite, record};
use dcsft_cache::verify::{self, Kind};
use dcsft_cache::{Artifact, Digest, Json, Store, StoreError};
use serde_json::json;

/// Longer than a file must rest before that it was read is remembered.
const REST: Duration = Duration::from_millis(2200);

/// Changes a byte and leaves size and time of the last write as they were.
fn flip_keeping_times(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    flip(path);
    File::open(path).unwrap().set_modified(modified).unwrap();
}

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
    let quarantined = quarantined.as_ref().expect("it was moved");
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
        (Kind::Blob, Some(artifact.files[0].digest)),
        (Kind::Artifact, Some(artifact.digest)),
        (Kind::Record, Some(key("a"))),
    ];
    assert_eq!(found, expected);
    assert!(report.damaged.iter().all(|damage| {
        damage
            .quarantined
            .as_ref()
            .is_some_and(|path| path.exists())
    }));
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

#[test]
fn a_flipped_byte_in_a_large_file_is_noticed_when_it_is_opened() {
    let bench = Bench::new();
    let large = large();
    let artifact = bench.compute(&key("a"), &[("f", &large)], 1.0);
    flip_keeping_times(&bench.blob(&large));
    assert!(matches!(
        bench.store.open_input(&artifact.digest),
        Err(StoreError::Damaged { .. })
    ));
    assert!(!bench.blob(&large).exists());
    recovers(&bench, &[("f", &large)], &artifact);
}

/// Publishing the same bytes again replaces a damaged blob of any size: so a stage that is run again heals its result.
#[test]
fn a_damaged_large_file_is_replaced_when_its_bytes_are_published_again() {
    let large = large();
    for damage in [flip_keeping_times, |blob: &Path| {
        fs::remove_file(blob).unwrap();
        fs::create_dir(blob).unwrap();
    }] {
        let bench = Bench::new();
        let artifact = bench.compute(&key("a"), &[("f", &large)], 1.0);
        damage(&bench.blob(&large));
        // The same artifact, and another one with the same file.
        assert_eq!(bench.publish(&[("f", &large)]).digest, artifact.digest);
        let other = bench.publish(&[("g", &large)]);
        for (digest, name) in [(artifact.digest, "f"), (other.digest, "g")] {
            let folder = Store::open(bench.store.root())
                .unwrap()
                .open_verified(&digest)
                .unwrap();
            assert_eq!(fs::read(folder.join(name)).unwrap(), large);
        }
        assert_eq!(verify::verify(&bench.store, |_| ()).unwrap().damaged, []);
    }
}

/// A large file is read when it is opened for the first time, and then only if something about it changed. What was
/// read stands in a file with a digest of its own.
#[test]
fn a_large_file_is_read_again_only_if_it_or_what_is_remembered_of_it_changed() {
    let bench = Bench::new();
    let large = large();
    let artifact = bench.compute(&key("a"), &[("f", &large)], 1.0);
    let memory = bench
        .inside("checked")
        .join(&artifact.digest.to_string()[..2])
        .join(artifact.digest.to_string());
    thread::sleep(REST);
    let opens = || {
        Store::open(bench.store.root())
            .unwrap()
            .open_input(&artifact.digest)
    };
    opens().unwrap();
    let remembered = fs::read(&memory).unwrap();
    assert!(
        String::from_utf8_lossy(&remembered).contains("\"f\""),
        "{}",
        String::from_utf8_lossy(&remembered)
    );
    opens().unwrap();
    assert_eq!(fs::read(&memory).unwrap(), remembered);

    // Whatever is wrong with the memory, it is made anew.
    for at in (0..remembered.len()).step_by(5) {
        let mut bytes = remembered.clone();
        bytes[at] ^= 1;
        fs::write(&memory, &bytes).unwrap();
        opens().unwrap();
        let text = fs::read_to_string(&memory).unwrap();
        assert!(text.contains("\"f\""), "{at}: {text}");
        assert_ne!(text.as_bytes(), bytes, "{at}");
    }
    // With the same size and time of last write only the inode's own time tells.
    flip_keeping_times(&bench.blob(&large));
    assert!(matches!(opens(), Err(StoreError::Damaged { .. })));
    assert!(!memory.exists());
    recovers(&bench, &[("f", &large)], &artifact);
}

#[test]
fn a_verified_look_up_reads_large_files_too() {
    let bench = Bench::new();
    let large = large();
    let artifact = bench.compute(&key("a"), &[("f", &large)], 1.0);
    flip_keeping_times(&bench.blob(&large));
    assert!(bench.store.lookup(&key("a")).unwrap().is_some());
    assert_eq!(bench.store.lookup_verified(&key("a")).unwrap(), None);
    recovers(&bench, &[("f", &large)], &artifact);
}

/// Commits the result of `name`, computed `ago` seconds ago from the artifact `input`.
fn compute_from(bench: &Bench, name: &str, input: &Artifact, ago: u64) {
    let output = bench.publish(&[("result", name.as_bytes())]);
    let mut record = record(&key(name), &[("out", &output)], 1.0);
    record.explain = Json::of(&json!({"inputs": {"model": [{"digest": input.digest}]}}));
    record.created_unix = now() - ago;
    bench.store.commit(&record).unwrap();
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs()
}

fn voided(report: &verify::Report) -> Vec<Digest> {
    let mut keys: Vec<_> = report.voided.iter().map(|voided| voided.key).collect();
    keys.sort();
    keys
}

fn sorted<const N: usize>(names: [&str; N]) -> Vec<Digest> {
    let mut keys = names.map(key).to_vec();
    keys.sort();
    keys
}

const HOUR: u64 = 3600;

/// The damage is not only in the file: whatever was computed from it is wrong as well, and whole in itself.
#[test]
fn what_may_have_been_computed_from_damaged_bytes_is_void() {
    let bench = Bench::new();
    let large = large();
    let model = bench.compute(&key("model"), &[("f", &large)], 1.0);
    let other = bench.compute(&key("other"), &[("f", b"sound")], 1.0);
    compute_from(&bench, "eval", &model, 0);
    compute_from(&bench, "eval of another", &other, 0);
    flip_keeping_times(&bench.blob(&large));
    let report = verify::verify(&bench.store, |_| ()).unwrap();
    assert_eq!(voided(&report), [key("eval")]);
    assert!(
        report.voided[0].reason.contains(&model.digest.short()),
        "{}",
        report.voided[0].reason
    );
    assert_eq!(bench.store.lookup(&key("eval")).unwrap(), None);
    assert!(
        bench
            .store
            .lookup(&key("eval of another"))
            .unwrap()
            .is_some()
    );
    // It is in the quarantine, not lost.
    let records = bench.quarantined();
    assert!(
        records
            .iter()
            .any(|name| name.starts_with(&format!("record-{}", key("eval")))),
        "{records:?}"
    );
}

#[test]
fn every_check_that_finds_damage_voids_what_was_computed_from_it() {
    let checks: [fn(&Bench, &Artifact); 3] = [
        |bench, model| drop(bench.store.open_input(&model.digest)),
        |bench, _| drop(bench.store.lookup_verified(&key("model"))),
        |bench, model| {
            let again = bench.publish(&[("f", &large())]);
            assert_eq!(again.digest, model.digest);
        },
    ];
    for check in checks {
        let (bench, large) = (Bench::new(), large());
        let model = bench.compute(&key("model"), &[("f", &large)], 1.0);
        compute_from(&bench, "eval", &model, 0);
        flip_keeping_times(&bench.blob(&large));
        check(&bench, &model);
        assert_eq!(bench.store.lookup(&key("eval")).unwrap(), None);
        assert_eq!(bench.store.take_voided(), [key("eval")]);
        assert_eq!(bench.store.take_voided(), []);
    }
}

/// What was recorded before the artifact was last found sound cannot have seen the damage.
#[test]
fn what_is_older_than_the_last_sound_check_stays() {
    let bench = Bench::new();
    let large = large();
    let model = bench.compute(&key("model"), &[("f", &large)], 1.0);
    compute_from(&bench, "old", &model, HOUR);
    compute_from(&bench, "new", &model, 0);
    assert_eq!(verify::verify(&bench.store, |_| ()).unwrap().damaged, []);
    flip_keeping_times(&bench.blob(&large));
    let report = verify::verify(&bench.store, |_| ()).unwrap();
    assert_eq!(voided(&report), [key("new")]);
    assert!(bench.store.lookup(&key("old")).unwrap().is_some());
}

/// Results of one family take parts over from each other.
#[test]
fn younger_relatives_of_what_is_void_are_void() {
    let bench = Bench::new();
    let large = large();
    let data = bench.compute(&key("data"), &[("f", &large)], 1.0);
    let other = bench.compute(&key("other data"), &[("f", b"sound")], 1.0);
    compute_from(&bench, "older", &other, 2 * HOUR);
    compute_from(&bench, "reader", &data, HOUR);
    compute_from(&bench, "younger", &other, 0);
    compute_from(&bench, "of another family", &other, 0);
    for name in ["older", "reader", "younger"] {
        bench.store.join_family(&key("family"), &key(name)).unwrap();
    }
    flip_keeping_times(&bench.blob(&large));
    let report = verify::verify(&bench.store, |_| ()).unwrap();
    assert_eq!(voided(&report), sorted(["reader", "younger"]));
}

/// A manifest that is damaged has misled nobody: readers read the files.
#[test]
fn a_damaged_manifest_voids_no_reader() {
    let bench = Bench::new();
    let model = bench.compute(&key("model"), &[("f", SMALL)], 1.0);
    compute_from(&bench, "eval", &model, 0);
    flip(&bench.artifact_folder(&model.digest).join("manifest.json"));
    let report = verify::verify(&bench.store, |_| ()).unwrap();
    let kinds: Vec<_> = report.damaged.iter().map(|damage| damage.kind).collect();
    assert_eq!(kinds, [Kind::Artifact, Kind::Record]);
    assert_eq!(report.voided, []);
}

#[cfg(unix)]
mod in_a_files_place {
    use super::*;

    /// What may lie where a file should.
    const THINGS: [fn(&Path); 3] = [
        |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), b"").unwrap();
        },
        |path| {
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        },
        |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
    ];

    /// Puts each thing in the place of a file, then looks it up, and in another store verifies; and computes again.
    fn heals(place: fn(&Bench, &Artifact) -> PathBuf, kind: Kind) {
        for put in THINGS {
            for verified in [false, true] {
                let bench = Bench::new();
                let files = [("f", SMALL)];
                let artifact = bench.compute(&key("a"), &files, 1.0);
                let path = place(&bench, &artifact);
                fs::remove_file(&path).unwrap();
                // The name of a socket must be short.
                let short = bench.path("s");
                put(&short);
                fs::rename(&short, &path).unwrap();
                if verified {
                    let report = verify::verify(&bench.store, |_| ()).unwrap();
                    assert!(
                        report
                            .damaged
                            .iter()
                            .any(|damage| damage.kind == kind && damage.path == path
                                || path.starts_with(&damage.path)),
                        "{report:?}"
                    );
                } else {
                    assert_eq!(bench.store.lookup_verified(&key("a")).unwrap(), None);
                }
                recovers(&bench, &files, &artifact);
            }
        }
    }

    #[test]
    fn of_a_record() {
        heals(|bench, _| bench.record_file(&key("a")), Kind::Record);
    }

    #[test]
    fn of_a_manifest() {
        let manifest = |bench: &Bench, artifact: &Artifact| {
            bench
                .artifact_folder(&artifact.digest)
                .join("manifest.json")
        };
        heals(manifest, Kind::Artifact);
    }

    #[test]
    fn of_an_artifacts_file() {
        let file = |bench: &Bench, artifact: &Artifact| {
            bench.store.artifact_files(&artifact.digest).join("f")
        };
        heals(file, Kind::Artifact);
    }

    #[test]
    fn of_a_blob() {
        for put in THINGS {
            let bench = Bench::new();
            let artifact = bench.compute(&key("a"), &[("f", SMALL)], 1.0);
            fs::remove_file(bench.blob(SMALL)).unwrap();
            let short = bench.path("s");
            put(&short);
            fs::rename(&short, bench.blob(SMALL)).unwrap();
            let report = verify::verify(&bench.store, |_| ()).unwrap();
            let kinds: Vec<_> = report.damaged.iter().map(|damage| damage.kind).collect();
            // The artifact has the bytes under its own name.
            assert_eq!(kinds, [Kind::Blob]);
            assert!(bench.store.lookup_verified(&key("a")).unwrap().is_some());
            let other = bench.publish(&[("g", SMALL)]);
            assert!(bench.store.open_input(&other.digest).is_ok());
            assert!(bench.store.open_input(&artifact.digest).is_ok());
        }
    }

    #[test]
    fn of_what_is_remembered_of_users_files() {
        for put in THINGS {
            let bench = Bench::new();
            let folder = bench.folder("data", &[("a", b"one")]);
            let (first, _) = bench.store.digest_path(&folder, false).unwrap();
            let memory = bench
                .inside("stat-cache")
                .join(&names(&bench.inside("stat-cache"))[0]);
            fs::remove_file(&memory).unwrap();
            let short = bench.path("s");
            put(&short);
            fs::rename(&short, &memory).unwrap();
            assert_eq!(bench.store.digest_path(&folder, false).unwrap().0, first);
            let report = verify::verify(&bench.store, |_| ()).unwrap();
            let found: Vec<_> = report.damaged.iter().map(|damage| damage.kind).collect();
            let replaced = memory.is_file();
            assert!(found == [Kind::StatCache] || replaced, "{found:?}");
            assert_eq!(bench.store.digest_path(&folder, false).unwrap().0, first);
        }
    }
}

/// A changed digit would be another digest of the same file.
#[test]
fn every_flipped_byte_of_what_is_remembered_of_users_files_is_noticed() {
    let bench = Bench::new();
    let folder = bench.folder("data", &[("a", b"one"), ("b", b"two")]);
    thread::sleep(REST);
    let (first, _) = bench.store.digest_path(&folder, false).unwrap();
    let memory = bench
        .inside("stat-cache")
        .join(&names(&bench.inside("stat-cache"))[0]);
    let whole = fs::read(&memory).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&memory, &bytes).unwrap();
        let report = verify::verify(&bench.store, |_| ()).unwrap();
        assert_eq!(report.damaged.len(), 1, "byte {at}");
        fs::write(&memory, &bytes).unwrap();
        assert_eq!(bench.store.digest_path(&folder, false).unwrap().0, first);
    }
}

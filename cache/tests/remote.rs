//! A remote in a folder: results come and go, and what is wrong there stays there.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Bench, key, names, record};
use dcsft_cache::{Depth, Digest, Pusher, Remote, verify};

/// More than goes in one piece.
const LARGE: usize = 20 << 20;

fn open(folder: &Path) -> Remote {
    Remote::open(&folder.to_string_lossy()).unwrap()
}

fn nothing(remote: &Remote) {
    assert_eq!(remote.take_troubles(), [""; 0]);
}

/// A result with files of all sizes, and one that shares a file with it.
fn fill(bench: &Bench) -> [Digest; 2] {
    bench.compute(
        &key("a"),
        &[("f", b"small"), ("sub/large", &vec![7; LARGE])],
        1.0,
    );
    bench.compute(&key("b"), &[("g", b"small"), ("empty", b"")], 2.0);
    [key("a"), key("b")]
}

fn object(remote: &Path, folder: &str, digest: &Digest) -> PathBuf {
    let digest = digest.to_string();
    remote
        .join("v1")
        .join(folder)
        .join(&digest[..2])
        .join(digest)
}

fn output(bench: &Bench, key: &Digest) -> Digest {
    bench.store.lookup(key).unwrap().unwrap().outputs["out"].digest
}

/// Brings the results of a full bench to a remote.
fn remote_of(full: &Bench) -> (PathBuf, [Digest; 2]) {
    let keys = fill(full);
    let folder = full.path("remote");
    let remote = open(&folder);
    assert_eq!(full.store.push(&remote, &keys, Depth::Record), 2);
    nothing(&remote);
    assert_eq!(remote.traffic().pushed, 2);
    (folder, keys)
}

/// Nothing but `keys` is in the store, and each as in the full one; nothing is damaged, and nothing half done is left.
fn assert_sound(store: &Bench, full: &Bench, keys: &[Digest]) {
    for key in keys {
        let found = store.store.lookup_verified(key).unwrap();
        assert!(found.is_some());
        assert_eq!(found, full.store.lookup(key).unwrap());
    }
    assert_eq!(store.store.records().unwrap().count(), keys.len());
    assert_eq!(verify::verify(&store.store, |_| ()).unwrap().damaged, []);
    assert_eq!(names(&store.inside("tmp")), [""; 0]);
}

#[test]
fn results_go_there_and_come_to_another_cache_with_the_same_bytes() {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let again = open(&folder);
    for depth in [Depth::Record, Depth::Objects] {
        assert_eq!(full.store.push(&again, &keys, depth), 2);
        assert_eq!((again.traffic().pushed, again.traffic().bytes_up), (0, 0));
    }

    let empty = Bench::new();
    let remote = open(&folder);
    let mut asked = keys.to_vec();
    asked.extend([key("nobody has computed it"), keys[0]]);
    empty.store.pull(&remote, &asked);
    nothing(&remote);
    let traffic = remote.traffic();
    assert_eq!(traffic.pulled, 2);
    assert!(traffic.bytes_down >= LARGE as u64 + 5);
    assert_sound(&empty, &full, &keys);

    let more = open(&folder);
    empty.store.pull(&more, &keys);
    assert_eq!(more.traffic().pulled, 0, "what is here is not asked for");
}

#[test]
fn look_ups_bring_what_is_not_here() {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let empty = Bench::new();
    let store = empty.store.clone().with_remote(Arc::new(open(&folder)));
    assert!(store.lookups().lookup(&keys[0]).unwrap().is_none());
    store.lookups().bring(&keys);
    assert!(store.lookups().lookup(&keys[0]).unwrap().is_some());
    assert!(empty.store.lookup(&keys[1]).unwrap().is_some());
    empty.store.lookups().bring(&[key("without a remote")]);
}

#[test]
fn bytes_that_are_not_those_of_their_name_are_not_taken_and_are_replaced_when_the_result_comes_again()
 {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let small = object(&folder, "blobs", &Digest::of_bytes(b"small"));
    let large = object(&folder, "blobs", &Digest::of_bytes(&vec![7; LARGE]));
    let manifest = object(&folder, "artifacts", &output(&full, &keys[1]));
    let record = object(&folder, "records", &keys[1]);
    let text = fs::read_to_string(&manifest).unwrap();
    let mut flipped = vec![7; LARGE];
    flipped[LARGE / 2] = 8;
    let lies: [(&Path, Vec<u8>, &[Digest]); 12] = [
        (&small, b"SMALL".to_vec(), &[]),
        (&small, b"small and more".to_vec(), &[]),
        (&small, Vec::new(), &[]),
        (&large, vec![7; 100], &keys[1..]),
        (&large, flipped, &keys[1..]),
        (&manifest, b"{}".to_vec(), &keys[..1]),
        (
            &manifest,
            br#"{"digest":"","bytes":0,"files":[]}"#.to_vec(),
            &keys[..1],
        ),
        // A file that would lie outside, and one of another size.
        (
            &manifest,
            text.replace("\"g\"", "\"../../../planted\"").into_bytes(),
            &keys[..1],
        ),
        (
            &manifest,
            text.replace("\"bytes\": 5", "\"bytes\": 6").into_bytes(),
            &keys[..1],
        ),
        (&record, b"no record".to_vec(), &keys[..1]),
        (&record, Vec::new(), &keys[..1]),
        // A true one, of another key.
        (
            &record,
            fs::read(object(&folder, "records", &keys[0])).unwrap(),
            &keys[..1],
        ),
    ];
    for (path, lie, right) in lies {
        let truth = fs::read(path).unwrap();
        assert_ne!(truth, lie);
        fs::write(path, &lie).unwrap();
        let empty = Bench::new();
        let remote = Arc::new(open(&folder));
        empty.store.pull(&remote, &keys);
        let troubles = remote.take_troubles();
        assert!(!troubles.is_empty(), "{}", path.display());
        for trouble in troubles {
            assert!(trouble.contains("counts as not there"), "{trouble}");
        }
        assert_sound(&empty, &full, right);
        assert!(!empty.path("planted").exists());

        // Whoever found it wrong and computed the result itself puts it right.
        fill(&empty);
        let pusher = Pusher::start(empty.store.clone(), Arc::clone(&remote)).unwrap();
        for key in keys {
            pusher.push(key);
        }
        assert_eq!(pusher.finish(Duration::from_secs(60), |_| ()), 0);
        nothing(&remote);
        assert!(fs::read(path).unwrap() == truth, "{}", path.display());
    }
}

#[test]
fn what_a_record_names_and_is_missing_makes_the_record_count_for_nothing() {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let small = object(&folder, "blobs", &Digest::of_bytes(b"small"));
    let manifest = object(&folder, "artifacts", &output(&full, &keys[1]));
    for (missing, right) in [(&small, &keys[..0]), (&manifest, &keys[..1])] {
        fs::remove_file(missing).unwrap();
        let empty = Bench::new();
        let remote = open(&folder);
        empty.store.pull(&remote, &keys);
        let troubles = remote.take_troubles();
        assert!(
            troubles[0].contains("is missing, and a record names it"),
            "{troubles:?}"
        );
        assert_sound(&empty, &full, right);

        let remote = open(&folder);
        full.store.push(&remote, &keys, Depth::Record);
        assert!(!missing.exists(), "a record that is there stands for all");
        full.store.push(&remote, &keys, Depth::Objects);
        assert!(missing.exists(), "unless every object is asked for");
        nothing(&remote);
    }
}

#[test]
fn a_file_that_was_cut_short_there_is_found_by_its_size() {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let large = object(&folder, "blobs", &Digest::of_bytes(&vec![7; LARGE]));
    fs::write(&large, b"short").unwrap();
    full.store.push(&open(&folder), &keys, Depth::Objects);
    assert_eq!(fs::metadata(&large).unwrap().len(), LARGE as u64);
}

#[test]
fn several_that_push_at_the_same_time_leave_whole_results() {
    let full = Bench::new();
    let keys = fill(&full);
    let folder = full.path("remote");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let remote = open(&folder);
                assert_eq!(full.store.push(&remote, &keys, Depth::Record), 2);
                nothing(&remote);
            });
        }
    });
    let empty = Bench::new();
    let remote = open(&folder);
    empty.store.pull(&remote, &keys);
    nothing(&remote);
    assert_sound(&empty, &full, &keys);
}

#[test]
fn a_record_that_is_there_stays_when_another_one_comes() {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let there = object(&folder, "records", &keys[0]);
    let first = fs::read(&there).unwrap();
    let other = Bench::new();
    other.compute(&keys[0], &[("f", b"by another machine")], 9.0);
    assert_eq!(
        other.store.push(&open(&folder), &keys[..1], Depth::Objects),
        1
    );
    assert!(fs::read(&there).unwrap() == first);
}

#[test]
fn a_remote_that_cannot_be_written_costs_a_sentence_and_is_still_read() {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let third = key("c");
    full.compute(&third, &[("h", b"another")], 3.0);
    // Files where folders are needed: whoever runs this may be allowed to write everywhere.
    for shards in ["blobs", "artifacts", "records"] {
        for shard in 0..256 {
            let path = folder.join("v1").join(shards).join(format!("{shard:02x}"));
            if !path.exists() {
                fs::write(path, b"").unwrap();
            }
        }
    }
    let remote = Arc::new(open(&folder));
    let pusher = Pusher::start(full.store.clone(), Arc::clone(&remote)).unwrap();
    pusher.push(third);
    pusher.push(key("never computed"));
    assert_eq!(pusher.finish(Duration::from_secs(60), |_| ()), 2);
    let troubles = remote.take_troubles();
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    assert!(
        troubles[0].starts_with("nothing more is brought to"),
        "{troubles:?}"
    );
    let empty = Bench::new();
    empty.store.pull(&remote, &keys);
    nothing(&remote);
    assert_sound(&empty, &full, &keys);
}

#[test]
fn damage_here_is_not_carried_there() {
    for large in [false, true] {
        let full = Bench::new();
        let keys = fill(&full);
        let (path, bytes) = if large {
            ("sub/large", vec![8; LARGE])
        } else {
            ("f", b"SMALL".to_vec())
        };
        let file = full
            .store
            .artifact_files(&output(&full, &keys[0]))
            .join(path);
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
        let folder = full.path("remote");
        let remote = open(&folder);
        assert_eq!(full.store.push(&remote, &keys[..1], Depth::Record), 0);
        assert!(!object(&folder, "records", &keys[0]).exists());
        let troubles = remote.take_troubles();
        assert!(troubles[0].contains("not brought there"), "{troubles:?}");
    }
}

#[test]
fn a_damaged_file_here_is_not_used_for_a_result_from_there() {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let other = Bench::new();
    other.compute(&key("other"), &[("x", b"small")], 1.0);
    common::overwrite(&other.blob(b"small"), b"SMALL");
    let remote = open(&folder);
    other.store.pull(&remote, &keys[1..]);
    nothing(&remote);
    assert!(other.store.lookup_verified(&keys[1]).unwrap().is_some());
}

#[test]
fn a_cache_that_takes_nothing_costs_a_sentence() {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let empty = Bench::new();
    fs::remove_dir_all(empty.inside("tmp")).unwrap();
    fs::write(empty.inside("tmp"), b"").unwrap();
    let remote = open(&folder);
    empty.store.pull(&remote, &keys);
    let troubles = remote.take_troubles();
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    assert!(troubles[0].contains("is not used any more"), "{troubles:?}");
}

#[test]
fn a_remote_that_was_stopped_is_left_alone() {
    let full = Bench::new();
    let keys = fill(&full);
    let folder = full.path("remote");
    let remote = Arc::new(open(&folder));
    let pusher = Pusher::start(full.store.clone(), Arc::clone(&remote)).unwrap();
    remote.stop();
    for key in keys {
        pusher.push(key);
    }
    assert_eq!(pusher.finish(Duration::from_secs(60), |_| ()), 2);
    Bench::new().store.pull(&remote, &keys);
    nothing(&remote);
    assert_eq!(remote.traffic().pulled, 0);
}

#[test]
fn addresses_that_cannot_work_are_refused_and_their_secrets_are_not_repeated() {
    let wrong = [
        ("ftp://host/folder", "s3://"),
        ("https://host.example/folder", "s3://"),
        ("s3://ID:hush@bucket/folder", "AWS_ACCESS_KEY_ID"),
        (
            "https://me:hush@account.blob.core.windows.net/box",
            "AWS_ACCESS_KEY_ID",
        ),
        (
            "https://account.blob.core.windows.net/box?sig=hush",
            "AZURE_STORAGE_SAS_TOKEN",
        ),
        ("gs://bucket/folder#hush", "no effect"),
        ("s3://", ""),
    ];
    for (url, help) in wrong {
        let error = Remote::open(url).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(help), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn a_folder_that_cannot_be_reached_is_empty_and_takes_nothing() {
    let full = Bench::new();
    let keys = fill(&full);
    fs::write(full.path("file"), b"").unwrap();
    let remote = open(&full.path("file/folder"));
    full.store.pull(&remote, &[key("c")]);
    assert_eq!(full.store.push(&remote, &keys, Depth::Record), 0);
    let troubles = remote.take_troubles();
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    assert!(troubles[0].contains("file/folder"), "{troubles:?}");
    open(&full.path("not there"));
    assert!(!full.path("not there").exists(), "opening makes nothing");
}

#[test]
fn a_folder_is_a_path_or_a_url() {
    let bench = Bench::new();
    fs::create_dir(bench.path("some")).unwrap();
    let folder = bench.path("some/../with blank%41#1?/ä");
    let plain = open(&folder);
    fill(&bench);
    assert_eq!(bench.store.push(&plain, &[key("b")], Depth::Record), 1);
    assert!(bench.path("with blank%41#1?/ä/v1/records").is_dir());
    let url = format!("file://{}", folder.display());
    let url = url
        .replace('%', "%25")
        .replace(' ', "%20")
        .replace('#', "%23")
        .replace('?', "%3F");
    let remote = Remote::open(&url).unwrap();
    assert_eq!(remote.name(), plain.name());
    let empty = Bench::new();
    empty.store.pull(&remote, &[key("b")]);
    assert_eq!(remote.traffic().pulled, 1);
}

#[test]
fn records_of_newer_versions_are_left_there() {
    let full = Bench::new();
    let (folder, keys) = remote_of(&full);
    let mut newer = record(&keys[1], &[], 1.0);
    newer.format += 1;
    let other = Bench::new();
    // As its own version would write it.
    other.store.commit(&newer).unwrap();
    fs::copy(
        other.record_file(&keys[1]),
        object(&folder, "records", &keys[1]),
    )
    .unwrap();
    let remote = open(&folder);
    let empty = Bench::new();
    empty.store.pull(&remote, &keys);
    assert_eq!(remote.traffic().pulled, 1);
    assert_eq!(remote.take_troubles().len(), 1);
    fill(&empty);
    empty.store.push(&remote, &keys, Depth::Record);
    let kept = fs::read(object(&folder, "records", &keys[1])).unwrap();
    assert!(kept == fs::read(other.record_file(&keys[1])).unwrap());
}

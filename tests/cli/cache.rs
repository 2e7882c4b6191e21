//! `dcsft cache`.

use std::path::{Path, PathBuf};

use dcsft_cache::Store;

use crate::support::{DATA, Lab, lines};

fn finished() -> Lab {
    let lab = Lab::new(DATA);
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    lab
}

#[test]
fn ls_lists_results_and_filters_them() {
    let lab = finished();
    let all = lines(&lab.ok(&["cache", "ls", "--json"]));
    assert_eq!(all.len(), 4);
    assert!(
        all.iter()
            .all(|one| one["key"].is_string() && one["bytes"].as_u64() > Some(0)),
        "{all:?}"
    );
    assert_eq!(
        lines(&lab.ok(&["cache", "ls", "world[seed=1]", "--json"])).len(),
        1
    );
    assert!(lab.ok(&["cache", "ls"]).contains("4 results of 4"));
}

#[test]
fn path_leads_to_the_files_of_an_output() {
    let lab = finished();
    let one = lines(&lab.ok(&["cache", "ls", "world[seed=0]", "--json"])).remove(0);
    let key = one["key"].as_str().expect("a key");
    let folder = PathBuf::from(
        lab.ok(&["cache", "path", &format!("{}/train", &key[..10])])
            .trim(),
    );
    assert!(
        folder.join("samples.jsonl").exists(),
        "{}",
        folder.display()
    );
    let done = lab.dcsft(&["cache", "path", &key[..10]]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("means several artifacts"),
        "{}",
        done.stderr
    );
    assert_eq!(lab.dcsft(&["cache", "path", "no-digest"]).code, 2);
}

fn any_file(folder: &Path) -> PathBuf {
    let entry = std::fs::read_dir(folder)
        .expect("a folder")
        .next()
        .expect("an entry")
        .expect("an entry")
        .path();
    if entry.is_dir() {
        any_file(&entry)
    } else {
        entry
    }
}

#[test]
fn verify_finds_damage_and_the_next_run_repairs_it() {
    let lab = finished();
    let sound = lab.ok(&["cache", "verify"]);
    assert!(sound.contains("0 damaged"), "{sound}");
    let before = lab.ok(&["lock", "spec.yaml", "--print"]);

    let blob = any_file(&lab.root().join("cache/v1/blobs"));
    let mut bytes = std::fs::read(&blob).expect("the blob");
    bytes[0] ^= 1;
    std::fs::remove_file(&blob).expect("remove");
    std::fs::write(&blob, bytes).expect("write");
    let done = lab.dcsft(&["cache", "verify"]);
    assert_eq!(done.code, 1, "{}", done.stdout);
    assert!(done.stdout.contains("damaged"), "{}", done.stdout);

    lab.ok(&["run", "spec.yaml"]);
    assert!(lab.ok(&["cache", "verify"]).contains("0 damaged"));
    assert_eq!(lab.ok(&["lock", "spec.yaml", "--print"]), before);
}

#[test]
fn gc_keeps_what_the_given_specs_need() {
    let lab = finished();
    lab.ok(&["run", "spec.yaml", "--quiet", "--set", "vars.train=13"]);
    assert_eq!(lines(&lab.ok(&["cache", "ls", "--json"])).len(), 7);
    let would = lab.ok(&["cache", "gc", "--keep", "spec.yaml", "--dry-run"]);
    assert!(would.contains("would remove 3 results"), "{would}");
    assert_eq!(
        lines(&lab.ok(&["cache", "ls", "--json"])).len(),
        7,
        "a dry run removes nothing"
    );
    lab.ok(&["cache", "gc", "--keep", "spec.yaml"]);
    assert_eq!(lines(&lab.ok(&["cache", "ls", "--json"])).len(), 4);
    let last = lines(&lab.ok(&["run", "spec.yaml", "--json"]))
        .pop()
        .expect("events");
    assert_eq!(last["executed"], 0);
}

#[test]
fn gc_keeps_what_the_spec_needs_on_a_gpu() {
    let lab = Lab::new(
        r#"
dcsft: 1
name: both
stages:
  world: {uses: shapes, with: {counts: {pretrain: 4, cold_start: 8, train: 4, val: 4, rendition: 4, adversarial: 4}}}
  untrained: {uses: model, with: {kind: micro}}
  trained: {uses: sft, with: {model: "${untrained}", data: "${world.cold_start}", steps: 1, batch_size: 4}}
"#,
    );
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    let key = |device: &str| -> String {
        lines(&lab.ok(&["plan", "spec.yaml", "--device", device, "--json"]))
            .iter()
            .find(|line| line["stage"] == "trained")
            .and_then(|line| line["key"].as_str().map(str::to_owned))
            .expect("a key")
    };
    // No GPU is at hand: the same result under the key that it would have there.
    let (cpu, cuda) = (key("cpu"), key("cuda"));
    assert_ne!(cpu, cuda);
    let store = Store::open(&lab.root().join("cache")).expect("the cache");
    let mut record = store
        .lookup(&cpu.parse().expect("a digest"))
        .expect("the cache can be read")
        .expect("the result");
    record.key = cuda.parse().expect("a digest");
    store.commit(&record).expect("commit");

    lab.ok(&["cache", "gc", "--keep", "spec.yaml"]);
    let kept = lines(&lab.ok(&["cache", "ls", "trained", "--json"]));
    assert_eq!(kept.len(), 2, "{kept:?}");
}

#[test]
fn gc_keeps_what_a_run_with_overrides_needs() {
    let lab = finished();
    let set = ["--set", "vars.train=13"];
    lab.ok(&[&["run", "spec.yaml", "--quiet"][..], &set].concat());
    lab.ok(&[&["cache", "gc", "--keep", "spec.yaml"][..], &set].concat());
    let last = lines(&lab.ok(&[&["run", "spec.yaml", "--json"][..], &set].concat()))
        .pop()
        .expect("events");
    assert_eq!(last["executed"], 0);
    assert_eq!(lines(&lab.ok(&["cache", "ls", "--json"])).len(), 4);
}

#[test]
fn gc_without_a_policy_removes_no_result() {
    let lab = finished();
    let text = lab.ok(&["cache", "gc"]);
    assert!(
        text.contains("removed 0 results") && text.contains("4 results kept"),
        "{text}"
    );
}

#[test]
fn gc_makes_the_cache_as_small_as_asked() {
    let lab = finished();
    lab.ok(&["cache", "gc", "--max-size", "0"]);
    assert_eq!(lab.ok(&["cache", "ls", "--json"]), "");
    assert_eq!(lab.dcsft(&["cache", "gc", "--max-size", "huge"]).code, 2);
}

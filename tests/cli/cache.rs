//! `dcsft cache`.

use std::path::{Path, PathBuf};

use dcsft_cache::{Json, Store};

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
fn ls_says_which_run_made_a_result_and_which_used_it() {
    let lab = finished();
    lab.ok(&["run", "spec.yaml", "--quiet", "--force", "untrained"]);
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    let runs = lines(&lab.ok(&["status", "--json"]));
    // Latest first.
    let runs: Vec<&str> = runs.iter().filter_map(|run| run["run"].as_str()).collect();
    assert_eq!(runs.len(), 3, "{runs:?}");
    for one in lines(&lab.ok(&["cache", "ls", "--json"])) {
        let again = one["label"] == "untrained";
        let made_by = if again { runs[1] } else { runs[2] };
        assert_eq!(one["made_by"], made_by, "{one}");
        assert_eq!(one["used_by"], serde_json::json!(runs), "{one}");
        assert_eq!(one["execution"]["device"], "cpu", "{one}");
        assert!(one["execution"]["program"]["version"].is_string(), "{one}");
    }
    let table = lab.ok(&["cache", "ls", "--verbose"]);
    assert!(
        table.contains(runs[1]) && table.contains(runs[2]),
        "{table}"
    );
    assert!(!lab.ok(&["cache", "ls"]).contains(runs[2]));
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
    let mut explain: serde_json::Value = record.explain.parse().expect("a preimage");
    explain["numerics"]["backend"] = "cuda".into();
    explain["numerics"]["dtype"] = "f32-8".into();
    record.explain = Json::of(&explain);
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

/// A small study in which a model is trained and evaluated: its model is larger than what is read at each opening.
const TRAINED: &str = r#"
dcsft: 1
name: trained
vars: {steps: 3, tokens: 4}
stages:
  world: {uses: shapes, with: {counts: {pretrain: 4, cold_start: 16, train: 4, val: 12, rendition: 4, adversarial: 4}}}
  untrained: {uses: model, with: {kind: micro}}
  sft: {uses: sft, with: {model: "${untrained}", data: "${world.cold_start}", steps: "${vars.steps}", batch_size: 4, learning_rate: 1e-3}}
  eval: {uses: eval, with: {model: "${sft}", data: "${world.val}", max_new_tokens: "${vars.tokens}"}}
"#;

/// The weights of the stage `sft`, changed where they lie.
fn damage_weights(lab: &Lab) -> PathBuf {
    let one = lines(&lab.ok(&["cache", "ls", "sft", "--json"])).remove(0);
    let digest = one["outputs"]["model"]["digest"]
        .as_str()
        .expect("a digest");
    let folder = lab.ok(&["cache", "path", digest]);
    let path = Path::new(folder.trim()).join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("the weights");
    assert!(bytes.len() > 64 * 1024);
    let modified = std::fs::metadata(&path).and_then(|meta| meta.modified());
    let at = bytes.len() - 1001;
    bytes[at] ^= 1;
    let mut permissions = std::fs::metadata(&path).expect("a file").permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    permissions.set_readonly(false);
    std::fs::set_permissions(&path, permissions).expect("chmod");
    std::fs::write(&path, &bytes).expect("write");
    let file = std::fs::File::open(&path).expect("open");
    file.set_modified(modified.expect("a time")).expect("touch");
    path
}

/// The text of the study's lock, which holds every number.
fn lock(lab: &Lab, set: &[&str]) -> String {
    lab.ok(&[&["lock", "spec.yaml", "--print"], set].concat())
}

#[test]
fn a_changed_bit_of_large_weights_reaches_no_result() {
    let lab = Lab::new(TRAINED);
    let set = ["--set", "vars.tokens=5"];
    lab.ok(&[&["run", "spec.yaml", "--quiet"][..], &set].concat());
    let right = lock(&lab, &set);
    std::fs::remove_dir_all(lab.root().join("cache")).expect("remove");
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    let first = lock(&lab, &[]);
    damage_weights(&lab);
    // Neither with another evaluation of the damaged model, nor with the one that was there.
    lab.ok(&[&["run", "spec.yaml", "--quiet"][..], &set].concat());
    assert_eq!(lock(&lab, &set), right);
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    assert_eq!(lock(&lab, &[]), first);
    assert!(lab.ok(&["cache", "verify"]).contains("0 damaged"));
}

/// A run that finds an input damaged may have taken over results that were computed from it.
#[test]
fn a_run_that_finds_damage_shows_no_number_that_was_computed_from_it() {
    let other = r#"  other: {uses: eval, with: {model: "${sft}", data: "${world.val}", max_new_tokens: 3}}"#;
    let lab = Lab::new(&format!("{TRAINED}{other}\n"));
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    damage_weights(&lab);
    let set = ["--set", "vars.tokens=5"];
    let done = lab.dcsft(&[&["run", "spec.yaml"][..], &set].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stderr.contains("they are computed again"),
        "{}",
        done.stderr
    );
    // Everything that it shows is in the cache.
    let last = lines(&lab.ok(&[&["run", "spec.yaml", "--json"][..], &set].concat()))
        .pop()
        .expect("events");
    assert_eq!((&last["executed"], &last["cached"]), (&0.into(), &5.into()));
}

#[test]
fn what_was_computed_from_damaged_weights_is_computed_again_after_verify() {
    let lab = Lab::new(TRAINED);
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    damage_weights(&lab);
    let done = lab.dcsft(&["cache", "verify"]);
    assert_eq!(done.code, 1);
    assert!(
        done.stdout.contains("void result") && done.stdout.contains("of eval"),
        "{}",
        done.stdout
    );
    let last = lines(&lab.ok(&["run", "spec.yaml", "--json"]))
        .pop()
        .expect("events");
    assert_eq!((&last["executed"], &last["cached"]), (&2.into(), &2.into()));
}

#[test]
fn paranoia_exports_and_forced_stages_read_large_files() {
    let lab = Lab::new(TRAINED);
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    let before = lock(&lab, &[]);

    damage_weights(&lab);
    let done = lab.dcsft(&["export", "spec.yaml", "sft", "exported"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("is damaged"), "{}", done.stderr);
    assert!(!lab.root().join("exported/model.safetensors").exists());
    lab.ok(&["run", "spec.yaml", "--quiet"]);

    damage_weights(&lab);
    let planned = lab.ok(&["plan", "spec.yaml", "--paranoid"]);
    assert!(planned.contains("1 to run"), "{planned}");
    lab.ok(&["run", "spec.yaml", "--quiet"]);

    let weights = damage_weights(&lab);
    lab.ok(&["run", "spec.yaml", "--quiet", "--force", "sft"]);
    assert!(weights.exists());
    assert!(lab.ok(&["cache", "verify"]).contains("0 damaged"));
    assert_eq!(lock(&lab, &[]), before);
}

#[test]
fn gc_keeps_what_lies_below_a_missing_result() {
    let lab = Lab::new(TRAINED);
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    // Results of another study, which nothing keeps.
    lab.ok(&["run", "spec.yaml", "--quiet", "--set", "vars.steps=2"]);
    let one = lines(&lab.ok(&["cache", "ls", "untrained", "--json"])).remove(0);
    let key = one["key"].as_str().expect("a key");
    let record = lab
        .root()
        .join(format!("cache/v1/records/{}/{key}.json", &key[..2]));
    std::fs::remove_file(&record).expect("remove");
    // Evaluations of either model may belong below it. What the latest run says is of no help.
    std::fs::remove_dir_all(lab.root().join("cache/v1/runs")).expect("remove");
    let text = lab.ok(&["cache", "gc", "--keep", "spec.yaml"]);
    assert!(
        text.contains("3 results kept that may belong below untrained")
            && text.contains("removed 1 result "),
        "{text}"
    );
    let last = lines(&lab.ok(&["run", "spec.yaml", "--json"]))
        .pop()
        .expect("events");
    assert_eq!((&last["executed"], &last["cached"]), (&1.into(), &3.into()));
}

#[test]
fn gc_keeps_what_the_latest_run_and_the_lock_file_name() {
    let lab = finished();
    lab.ok(&["lock", "spec.yaml"]);
    // Another spec by the same name and place, which has not run.
    let edited = DATA.replace("train: 12", "train: 14");
    assert_ne!(edited, DATA);
    lab.write("spec.yaml", &edited);
    assert!(
        lab.ok(&["cache", "gc", "--keep", "spec.yaml"])
            .contains("removed 0 results")
    );
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    assert!(
        lab.ok(&["cache", "gc", "--keep", "spec.yaml"])
            .contains("removed 0 results")
    );
    std::fs::remove_file(lab.root().join("spec.yaml.lock")).expect("remove");
    assert!(
        lab.ok(&["cache", "gc", "--keep", "spec.yaml"])
            .contains("removed 3 results")
    );
}

#[cfg(unix)]
#[test]
fn a_cache_whose_path_is_not_unicode_is_refused_before_it_is_made() {
    use std::os::unix::ffi::OsStrExt;
    let lab = Lab::new(DATA);
    let folder = lab.root().join(std::ffi::OsStr::from_bytes(b"ca\xffche"));
    let mut command = lab.command(&["run", "spec.yaml"]);
    let done = command
        .env("DCSFT_CACHE", &folder)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{text}");
    assert!(
        text.contains("not valid UTF-8") && text.contains("--cache-dir"),
        "{text}"
    );
    assert!(!folder.exists());
}

/// A cache on a disk that cannot be written to, as a shared one may be.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_that_cannot_be_written_serves_what_it_has() {
    let lab = Lab::new(TRAINED);
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    let read_only = |args: &[&str]| {
        let command = lab.command(args);
        let script = r#"mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" || { echo cannot mount >&2; exit 99; }
                        exec "$@""#;
        let mut outer = std::process::Command::new("unshare");
        outer
            .args(["-rm", "sh", "-c", script])
            .arg(lab.root().join("cache"))
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(lab.root())
            .env("DCSFT_CACHE", lab.root().join("cache"));
        outer.output().ok()
    };
    for args in [
        &["run", "spec.yaml"][..],
        &["plan", "spec.yaml"],
        &["results", "spec.yaml"],
        &["lock", "spec.yaml", "--print"],
        &["export", "spec.yaml", "sft", "exported"],
        &["cache", "verify"],
    ] {
        let Some(done) = read_only(args) else { return };
        let text = String::from_utf8_lossy(&done.stderr);
        if done.status.code() == Some(99) || text.contains("unshare: ") {
            // There is no way to make a folder read-only for this user here.
            return;
        }
        assert!(done.status.success(), "{args:?}: {text}");
    }
    assert!(lab.root().join("exported/model.safetensors").exists());
    // What has to be computed cannot be stored, and that is said.
    let done = read_only(&["run", "spec.yaml", "--set", "vars.tokens=5"]).expect("it ran before");
    let text = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{text}");
    assert!(text.contains("no permission to"), "{text}");
}

//! One study, one identity: whose a run, a report and a status are; who computed a result, and where.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{DATA, FINISHED, Lab, lines};

/// The page that a run names in its last line.
fn page(said: &str) -> PathBuf {
    let line = said.lines().find_map(|line| line.strip_prefix("report: "));
    PathBuf::from(line.unwrap_or_else(|| panic!("no report in {said}")))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A fact below the title of a page.
fn fact<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("<dt>{name}</dt><dd>"))?;
    rest.split("</dd>").next()
}

fn states(lab: &Lab, args: &[&str]) -> Vec<String> {
    let args = [&["status", "--json"], args].concat();
    let word = |stage: &Value| stage["state"].as_str().unwrap_or_default().to_owned();
    lines(&lab.ok(&args)).iter().map(word).collect()
}

const SET: [&str; 2] = ["--set", "vars.train=13"];

#[test]
fn a_run_with_overrides_has_a_report_of_its_own() {
    let lab = Lab::new(DATA);
    let plain = page(&lab.ok(&["run", "spec.yaml"]));
    assert_eq!(plain, lab.root().join("cache/reports/data/index.html"));
    let before = text(&plain);
    assert_eq!(fact(&before, "executed"), Some("4"));
    let other = page(&lab.ok(&["run", "spec.yaml", SET[0], SET[1]]));
    assert_ne!(other, plain);
    assert_eq!(text(&plain), before, "the study's own report is as it was");
    let other = text(&other);
    assert_eq!(fact(&other, "overrides"), Some("vars.train=13"));
    assert_eq!(fact(&other, "executed"), Some("3"));

    // Written again, each still tells of its own run.
    let again = lab.ok(&["report", "spec.yaml"]);
    assert_eq!(text(Path::new(again.trim())), before);
    let again = lab.ok(&["report", "spec.yaml", SET[0], SET[1]]);
    assert_eq!(text(Path::new(again.trim())), other);
}

#[test]
fn specs_of_one_name_share_no_report_and_no_status() {
    let lab = Lab::new(DATA);
    let first = page(&lab.ok(&["run", "spec.yaml"]));
    let before = text(&first);
    lab.write("copies/spec.yaml", &DATA.replace("train: 12", "train: 13"));
    assert!(
        lab.ok(&["status", "copies/spec.yaml"])
            .contains("has not run")
    );
    let second = page(&lab.ok(&["run", "copies/spec.yaml"]));
    assert_ne!(first, second);
    assert_eq!(text(&first), before);
    assert_eq!(fact(&text(&second), "executed"), Some("3"));
    assert_eq!(
        page(&lab.ok(&["run", "copies/spec.yaml"])),
        second,
        "it stays there"
    );
    assert_eq!(page(&lab.ok(&["run", "spec.yaml"])), first);
    assert_eq!(states(&lab, &["spec.yaml"]), ["cached"; 4]);
}

#[test]
fn values_of_the_environment_make_another_study() {
    let spec = DATA.replace("train: 12", "train: \"${env.DCSFT_TEST_COUNT:-12}\"");
    let lab = Lab::new(&spec);
    let first = page(&lab.ok(&["run", "spec.yaml"]));
    let before = text(&first);
    let output = lab
        .command(&["run", "spec.yaml"])
        .env("DCSFT_TEST_COUNT", "13")
        .output()
        .expect("the binary starts");
    let second = page(&String::from_utf8_lossy(&output.stdout));
    assert_ne!(first, second);
    assert_eq!(text(&first), before);
    assert_eq!(states(&lab, &["spec.yaml"]), ["executed"; 4]);
}

#[test]
fn status_shows_the_study_that_was_asked_for_and_mentions_others() {
    let lab = Lab::new(DATA);
    lab.ok(&["run", "spec.yaml"]);
    lab.ok(&["run", "spec.yaml", SET[0], SET[1]]);
    assert_eq!(states(&lab, &["spec.yaml"]), ["executed"; 4]);
    let said = lab.ok(&["status", "spec.yaml"]);
    assert!(
        said.contains("4 executed, 0 cached")
            && said.contains("a later run of spec.yaml with --set vars.train=13"),
        "{said}"
    );
    let said = lab.ok(&["status", "spec.yaml", SET[0], SET[1]]);
    assert!(
        said.contains("3 executed, 1 cached") && !said.contains("a later run"),
        "{said}"
    );
    let all = lab.ok(&["status"]);
    assert!(all.contains("data --set vars.train=13"), "{all}");
}

#[test]
fn status_says_what_has_changed_since_the_run() {
    let lab = Lab::new(DATA);
    lab.ok(&["run", "spec.yaml"]);
    lab.write("spec.yaml", &format!("# a comment changes nothing\n{DATA}"));
    assert!(!lab.ok(&["status", "spec.yaml"]).contains("edited"));
    lab.write("spec.yaml", &DATA.replace("train: 12", "train: 13"));
    let said = lab.ok(&["status", "spec.yaml"]);
    assert!(said.contains("spec.yaml has been edited since"), "{said}");
    let mut found = states(&lab, &["spec.yaml"]);
    found.sort();
    assert_eq!(found, ["changed", "changed", "changed", "executed"]);
    // Computed by somebody else meanwhile: there, and not by this run.
    lab.ok(&["run", "spec.yaml", "--set", "name=other"]);
    let mut found = states(&lab, &["spec.yaml"]);
    found.sort();
    assert_eq!(
        found,
        ["executed", "in the cache", "in the cache", "in the cache"]
    );
}

#[test]
fn results_reports_and_runs_tell_program_and_machine() {
    let (lab, _) = &*FINISHED;
    let records = lines(&lab.ok(&["cache", "ls", "--json"]));
    for record in &records {
        let execution = &record["execution"];
        assert_eq!(execution["program"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(execution["machine"]["processor"].is_string(), "{execution}");
        #[cfg(unix)]
        assert!(execution["cpu_seconds"].as_f64() > Some(0.0), "{execution}");
    }
    let stages = lines(&lab.ok(&["status", "spec.yaml", "--json"]));
    assert!(
        stages
            .iter()
            .all(|stage| stage["execution"]["device"] == "cpu")
    );
    let runs = lines(&lab.ok(&["status", "--json"]));
    let processor = runs[0]["machine"]["processor"]
        .as_str()
        .expect("a processor");
    let page = text(&lab.root().join("cache/reports/tiny/index.html"));
    assert!(fact(&page, "processor").is_some_and(|shown| shown.starts_with(processor)));
    assert!(fact(&page, "dcsft").is_some_and(|shown| shown.starts_with(env!("CARGO_PKG_VERSION"))));
}

#[test]
fn training_is_compared_by_processor_time() {
    let (lab, _) = &*FINISHED;
    let said = lab.ok(&["results", "spec.yaml"]);
    assert!(said.contains("(CPU)"), "{said}");
    assert!(said.contains("Training time is CPU time"), "{said}");
    assert!(said.contains("of sft/easy+medium in CPU time"), "{said}");
}

#[test]
fn a_damaged_report_is_written_anew() {
    let lab = Lab::new(DATA);
    let page = page(&lab.ok(&["run", "spec.yaml"]));
    let table = page.with_file_name("results.md");
    for path in [&page, &table] {
        let whole = text(path);
        std::fs::write(path, &whole[..whole.len() / 2]).expect("cut it short");
        lab.ok(&["run", "spec.yaml", "--quiet"]);
        assert_eq!(text(path), whole, "{}", path.display());
    }
    std::fs::remove_file(&table).expect("remove it");
    lab.ok(&["run", "spec.yaml", "--quiet"]);
    assert!(table.exists());
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create a folder");
    for entry in std::fs::read_dir(from).expect("read a folder") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else if std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to).expect("copy a file");
        }
    }
}

#[test]
fn results_name_the_stage_whose_result_is_gone() {
    let (finished, _) = &*FINISHED;
    let lab = Lab::new(&text(&finished.root().join("spec.yaml")));
    copy(&finished.root().join("cache"), &lab.root().join("cache"));
    let whole = lab.dcsft(&["results", "spec.yaml"]);
    assert!(
        !whole.stderr.contains("cannot be shown"),
        "{}",
        whole.stderr
    );
    let records = lines(&lab.ok(&["cache", "ls", "untrained", "--json"]));
    for record in &records {
        let key = record["key"].as_str().expect("a key");
        let path = format!("cache/v1/records/{}/{key}.json", &key[..2]);
        std::fs::remove_file(lab.root().join(path)).expect("the record");
    }
    for args in [
        &["results", "spec.yaml"][..],
        &["results", "spec.yaml", "--json"],
    ] {
        let done = lab.dcsft(args);
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert!(
            done.stderr.contains("evaluations cannot be shown")
                && done.stderr.contains("untrained[seed=0]"),
            "{}",
            done.stderr
        );
    }
}

/// One stage that runs for long.
#[cfg(unix)]
const LONG: &str = r#"
dcsft: 1
name: long
stages:
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 4, train: 64, val: 4, rendition: 4, adversarial: 4}}
  untrained: {uses: model, with: {kind: micro}}
  trained:
    uses: sft
    with: {model: "${untrained}", data: "${world.train}", steps: 100000, batch_size: 4, learning_rate: 1e-3}
"#;

#[test]
#[cfg(unix)]
fn status_follows_a_run_that_lives_and_knows_when_it_was_killed() {
    use std::time::{Duration, Instant};
    let lab = Lab::new(LONG);
    let mut run = lab
        .command(&["run", "spec.yaml", "--quiet"])
        .spawn()
        .expect("the binary starts");
    let began = Instant::now();
    let trained = loop {
        assert!(
            began.elapsed() < Duration::from_secs(300),
            "no progress is seen"
        );
        let stages = lines(&lab.ok(&["status", "spec.yaml", "--json"]));
        let trained = stages.into_iter().find(|stage| stage["stage"] == "trained");
        match trained {
            Some(stage) if stage["progress"]["done"].as_u64() > Some(0) => break stage,
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    assert_eq!(trained["state"], "running");
    let said = lab.ok(&["status", "spec.yaml"]);
    assert!(said.contains(": running, "), "{said}");
    assert!(
        said.contains("step ") && said.contains(" of 100000") && said.contains("loss"),
        "{said}"
    );

    run.kill().expect("kill -9");
    run.wait().expect("it ends");
    let said = lab.ok(&["status", "spec.yaml"]);
    assert!(
        said.contains(": killed, ") && !said.contains("running"),
        "{said}"
    );
    let all = lines(&lab.ok(&["status", "--json"]));
    assert_eq!(all[0]["state"], "killed");
}

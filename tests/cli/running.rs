//! `dcsft run`.

use std::process::Stdio;

use crate::support::{DATA, FINISHED, Lab, TINY, finish, lines};

/// A stage that fails (its list has no sample with an image) beside one that does not depend on it.
const FAILING: &str = r#"
dcsft: 1
name: failing
stages:
  photos: {uses: dataset, with: {path: list.json, set: photos, split: id}}
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 4, train: 4, val: 4, rendition: 4, adversarial: 4}}
"#;

fn failing() -> Lab {
    let lab = Lab::new(FAILING);
    lab.write(
        "list.json",
        r#"[{"problem": "<image>What?", "solution": "cat", "image": "broken.png"}]"#,
    );
    lab.write("broken.png", "no image");
    lab
}

#[test]
fn events_are_json_lines_and_the_last_one_has_the_totals() {
    let (_, events) = &*FINISHED;
    assert!(
        events.iter().all(|event| event["event"].is_string()),
        "{events:?}"
    );
    let last = events.last().expect("events");
    assert_eq!(last["event"], "finished");
    assert!(last["executed"].as_u64() > Some(20), "{last}");
    assert_eq!(last["failed"], 0);
    assert!(last["seconds"].as_f64() > Some(0.0));
    let names: Vec<&str> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    for name in ["started", "stage_started", "progress", "stage_finished"] {
        assert!(names.contains(&name), "no {name} event");
    }
}

#[test]
fn a_second_run_executes_nothing() {
    let (lab, first) = &*FINISHED;
    let events = lines(&lab.ok(&["run", "spec.yaml", "--json"]));
    let last = events.last().expect("events");
    assert_eq!(last["executed"], 0);
    let before = first.last().expect("events");
    let total = |event: &serde_json::Value| {
        event["executed"].as_u64().unwrap_or(0) + event["cached"].as_u64().unwrap_or(0)
    };
    assert_eq!(total(last), total(before));
}

#[test]
fn a_second_run_leaves_the_report_alone() {
    let (lab, _) = &*FINISHED;
    let page = lab.root().join("cache/reports/tiny/index.html");
    let before = std::fs::metadata(&page)
        .and_then(|meta| meta.modified())
        .expect("the report is there");
    lab.ok(&["run", "spec.yaml"]);
    assert_eq!(
        std::fs::metadata(&page)
            .and_then(|meta| meta.modified())
            .expect("the report"),
        before
    );
}

#[test]
fn reports_that_are_written_at_once_do_not_take_each_others_files() {
    let (lab, _) = &*FINISHED;
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let mut command = lab.command(&["report", "spec.yaml", "--out", "at-once"]);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().expect("the binary starts")
        })
        .collect();
    for writer in writers {
        let done = writer.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
    }
    let figures = std::fs::read_dir(lab.root().join("at-once/figures")).expect("figures");
    let names = figures.map(|figure| figure.expect("an entry").file_name());
    let left: Vec<_> = names
        .filter(|name| name.to_string_lossy().ends_with("part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_run_ends_with_the_table_and_the_reports_place() {
    let (lab, _) = &*FINISHED;
    let text = lab.ok(&["run", "spec.yaml"]);
    for part in [
        "cold_start",
        "sft/all",
        "sft/hard",
        "sft/easy+medium",
        "grpo",
        "val (ID)",
        "rendition (OOD)",
        "OOD mean",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    assert!(text.contains("grpo takes"), "{text}");
    assert!(text.contains("with the rollout scoring"), "{text}");
    let last = text.lines().last().expect("lines");
    let page = last
        .strip_prefix("report: ")
        .expect("the last line names the report");
    assert!(std::path::Path::new(page).exists(), "{page}");
}

#[test]
fn a_failing_stage_is_named_and_ends_in_exit_code_1() {
    let lab = failing();
    let done = lab.dcsft(&["run", "spec.yaml", "--jobs", "1"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(
        done.stderr.contains("error: photos failed"),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("spec.yaml:5:"), "{}", done.stderr);
    assert!(done.stderr.contains("log:"), "{}", done.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn events_that_cannot_be_written_are_an_error_after_the_run() {
    let lab = Lab::new(DATA);
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("the device that is always full");
    let done = finish(lab.command(&["run", "spec.yaml", "--json"]).stdout(full));
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(
        done.stderr.contains("error: cannot write to stdout: "),
        "{}",
        done.stderr
    );
    let events = lines(&lab.ok(&["run", "spec.yaml", "--json"]));
    assert_eq!(events.last().expect("events")["executed"], 0);
}

#[test]
fn keep_going_runs_what_does_not_depend_on_a_failure() {
    let lab = failing();
    let done = lab.dcsft(&["run", "spec.yaml", "--jobs", "1", "--keep-going", "--json"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    let events = lines(&done.stdout);
    let finished: Vec<&str> = events
        .iter()
        .filter(|event| event["event"] == "stage_finished")
        .filter_map(|event| event["stage"].as_str())
        .collect();
    assert_eq!(finished, ["world"]);
    assert_eq!(
        events.last().map(|event| event["failed"].clone()),
        Some(1.into())
    );
}

#[test]
fn force_runs_a_cached_stage_again() {
    let lab = Lab::new(DATA);
    lab.ok(&["run", "spec.yaml"]);
    let events = lines(&lab.ok(&["run", "spec.yaml", "--json", "--force", "world[seed=1]"]));
    let last = events.last().expect("events");
    assert_eq!(
        (last["executed"].as_u64(), last["cached"].as_u64()),
        (Some(1), Some(3))
    );
}

#[test]
fn a_changed_value_runs_only_what_depends_on_it() {
    let lab = Lab::new(DATA);
    lab.ok(&["run", "spec.yaml"]);
    let events = lines(&lab.ok(&["run", "spec.yaml", "--json", "--set", "vars.train=13"]));
    let last = events.last().expect("events");
    assert_eq!(
        (last["executed"].as_u64(), last["cached"].as_u64()),
        (Some(3), Some(1))
    );
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let (finished, _) = &*FINISHED;
    let lab = Lab::new(TINY);
    lab.ok(&[
        "run",
        "spec.yaml",
        "--threads",
        "1",
        "--jobs",
        "1",
        "--quiet",
    ]);
    assert_eq!(
        lab.ok(&["lock", "spec.yaml", "--print"]),
        finished.ok(&["lock", "spec.yaml", "--print"])
    );
}

#[test]
fn the_cache_is_found_from_the_flag_the_environment_or_the_project() {
    let lab = Lab::new("");
    lab.write("project/Cargo.toml", "");
    lab.write("project/specs/spec.yaml", DATA);
    let path = |command: &mut std::process::Command| finish(command).stdout.trim().to_owned();
    let root = lab.root().canonicalize().expect("the folder");

    finish(
        lab.command(&["plan", "project/specs/spec.yaml"])
            .env_remove("DCSFT_CACHE"),
    );
    assert!(
        root.join("project/.dcsft").is_dir(),
        "the project's root holds the cache"
    );
    let inside = path(
        lab.command(&["cache", "path"])
            .env_remove("DCSFT_CACHE")
            .current_dir(root.join("project/specs")),
    );
    assert_eq!(inside, root.join("project/.dcsft").display().to_string());
    let from_environment = path(
        lab.command(&["cache", "path"])
            .env("DCSFT_CACHE", root.join("a")),
    );
    assert_eq!(from_environment, root.join("a").display().to_string());
    let set_to_nothing = path(
        lab.command(&["cache", "path"])
            .env("DCSFT_CACHE", "")
            .current_dir(root.join("project")),
    );
    assert_eq!(set_to_nothing, inside);
    let flag = root.join("b").display().to_string();
    assert_eq!(
        path(
            lab.command(&["cache", "path", "--cache-dir", &flag])
                .env("DCSFT_CACHE", root.join("a"))
        ),
        flag
    );
}

//! Journals: what they hold, whose they are, how long they stay.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use dcsft_cache::Json;
use dcsft_engine::journal::{self, Entry, Journal, RunEvent, RunFolder, RunState, retention};
use dcsft_engine::provenance::{Machine, Program};
use dcsft_engine::record::Execution;
use dcsft_engine::run::{self, RunOptions};
use dcsft_engine::study::{Study, StudyId};
use dcsft_engine::why::{Explainer, Reason};
use serde_json::{Value, json};

use crate::support::{Bench, node};

fn chain(bench: &Bench, first: &str) -> Study {
    bench
        .study()
        .stage("a", "concat", json!({"text": first}), &[])
        .stage("b", "concat", json!({"text": "two"}), &["a"])
        .build()
}

fn overridden(bench: &Bench, first: &str, overrides: &[&str]) -> Study {
    let mut study = chain(bench, first);
    study.overrides = overrides.iter().map(|text| (*text).to_owned()).collect();
    study
}

fn latest(bench: &Bench) -> RunFolder {
    journal::runs(&bench.store.runs_dir()).next().unwrap()
}

fn history(bench: &Bench, study: &Study) -> Vec<String> {
    let runs = journal::history(study, &bench.store);
    runs.map(|run| run.header.run).collect()
}

/// The journal of a run that ended at once.
fn ended(bench: &Bench, study: &Study, executed: usize) -> String {
    let mut journal = begun(bench, study);
    let finished = RunEvent::Finished {
        executed,
        cached: 2,
        failed: 0,
        seconds: 0.5,
    };
    journal.append(&finished).unwrap();
    journal.flush().unwrap();
    journal.run
}

fn begun(bench: &Bench, study: &Study) -> Journal {
    Journal::create(&bench.store, study, "cpu", &Program::default()).unwrap()
}

fn change_header(run: &Path, change: impl FnOnce(&mut Value)) {
    let path = run.join("run.json");
    let mut header = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut header);
    fs::write(path, header.to_string()).unwrap();
}

#[test]
fn a_journal_tells_the_run_even_if_its_last_line_is_cut() {
    let bench = Bench::new();
    let study = chain(&bench, "one");
    let outcome = bench.run(&study);
    let run = latest(&bench);
    assert_eq!(
        (run.header.run.as_str(), run.header.spec.as_str()),
        (outcome.run.as_str(), "test")
    );
    assert_eq!(run.sources().unwrap(), study.sources);
    assert_eq!(
        run.header.study,
        Some(StudyId::of(&study, bench.store.root()))
    );
    let result = run.stages()["b"].event.result().unwrap().clone();
    assert_eq!(result.key, outcome.records[1].as_ref().unwrap().key);
    assert!(run.seconds()["a"] > 0.0);
    assert!(run.keys().contains(&result.key) && run.keys().len() == 2);

    let before: Vec<Entry> = run.events().collect();
    let mut events = OpenOptions::new()
        .append(true)
        .open(run.dir.join("events.jsonl"))
        .unwrap();
    events
        .write_all(br#"{"event":"stage_failed","stage":"b","mess"#)
        .unwrap();
    let cut = RunFolder::open(&run.dir).unwrap();
    assert_eq!(cut.events().collect::<Vec<_>>(), before);
    assert!(matches!(
        cut.state(),
        RunState::Ended {
            executed: 2,
            cached: 0,
            failed: 0,
            interrupted: false,
            ..
        }
    ));
}

#[test]
fn a_line_of_whatever_length_costs_no_event_but_its_own() {
    let bench = Bench::new();
    bench.run(&chain(&bench, "one"));
    let run = latest(&bench);
    let path = run.dir.join("events.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let long = format!(
        "{{\"event\":\"log\",\"stage\":\"a\",\"message\":\"{}\"}}\n",
        "x".repeat(3 << 20)
    );
    let before: Vec<Entry> = run.events().collect();
    fs::write(&path, format!("{long}not json\n{text}")).unwrap();
    assert_eq!(run.events().collect::<Vec<_>>(), before);
    assert!(matches!(run.state(), RunState::Ended { .. }));
}

#[test]
fn events_carry_their_time_and_neither_progress_nor_log_lines() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage(
            "slow",
            "steps",
            json!({"tag": "slow", "steps": 5, "pause_ms": 1}),
            &[],
        )
        .build();
    let (_, told) = bench.run_with(&study, &RunOptions::default());
    assert!(
        told.iter()
            .any(|event| matches!(event, RunEvent::Log { .. }))
    );
    let run = latest(&bench);
    let entries: Vec<Entry> = run.events().collect();
    let kept: Vec<&RunEvent> = told
        .iter()
        .filter(|event| !matches!(event, RunEvent::Log { .. } | RunEvent::Progress { .. }))
        .collect();
    assert_eq!(
        entries.iter().map(|entry| &entry.event).collect::<Vec<_>>(),
        kept
    );
    let times: Vec<f64> = entries.iter().map(|entry| entry.at.unwrap()).collect();
    assert!(times.is_sorted() && times[0] >= run.header.started_unix as f64);
}

#[test]
fn a_run_is_known_to_live_and_how_far_its_stages_are() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage(
            "slow",
            "steps",
            json!({"tag": "slow", "steps": 30, "pause_ms": 10}),
            &[],
        )
        .build();
    let mut states = Vec::new();
    let mut seen = None;
    let mut look = |event: &RunEvent| {
        let run = latest(&bench);
        states.push(run.state());
        if matches!(event, RunEvent::StageFinished { .. }) {
            seen = run.live();
        }
    };
    run::run(
        &study,
        &bench.registry,
        &bench.plan(&study),
        &bench.store,
        &RunOptions::default(),
        &bench.executor(),
        &mut look,
    )
    .unwrap();
    assert!(
        states.iter().all(|state| *state == RunState::Running),
        "{states:?}"
    );
    let slow = &seen
        .expect("progress is written while the stage runs")
        .stages["slow"];
    assert_eq!(
        (slow.progress.total, slow.progress.unit.as_str()),
        (30, "step")
    );
    assert!(slow.progress.done >= 1 && slow.at > 0.0);
    assert!(matches!(
        latest(&bench).state(),
        RunState::Ended { executed: 1, .. }
    ));
}

#[test]
fn a_run_that_ended_without_a_word_was_killed() {
    let bench = Bench::new();
    let study = chain(&bench, "one");
    let mut journal = begun(&bench, &study);
    journal
        .append(&RunEvent::Started {
            run: journal.run.clone(),
            spec: "test".into(),
            stages: 2,
            cached: 0,
            jobs: 1,
        })
        .unwrap();
    journal.flush().unwrap();
    assert_eq!(latest(&bench).state(), RunState::Running);
    drop(journal);
    assert_eq!(latest(&bench).state(), RunState::Killed);
    // A version that took no lock says nothing.
    change_header(&latest(&bench).dir, |header| {
        header.as_object_mut().unwrap().remove("study");
        header["format"] = json!(1);
    });
    fs::remove_file(latest(&bench).dir.join("lock")).unwrap();
    assert_eq!(latest(&bench).state(), RunState::Unknown);
}

#[test]
fn studies_are_told_apart_by_place_overrides_environment_and_content() {
    let bench = Bench::new();
    let root = bench.store.root();
    let plain = StudyId::of(&chain(&bench, "one"), root);
    assert_eq!(StudyId::of(&chain(&bench, "one"), root), plain);

    let edited = StudyId::of(&chain(&bench, "else"), root);
    assert!(edited.is_variant_of(&plain) && edited.content != plain.content);

    let of = |overrides: &[&str]| StudyId::of(&overridden(&bench, "one", overrides), root);
    let set = of(&["vars.a=1", "vars.b=2"]);
    assert!(!set.is_variant_of(&plain) && set.spec == plain.spec);
    assert_eq!(set, of(&["vars.b=2", "vars.a=1"]), "in any order");
    assert_ne!(
        of(&["vars.a=1", "vars.a=2"]),
        of(&["vars.a=2", "vars.a=1"]),
        "the later holds"
    );

    let mut elsewhere = chain(&bench, "one");
    elsewhere.spec = bench.dir.path().join("copy.yaml");
    let copy = StudyId::of(&elsewhere, root);
    assert!(copy.spec != plain.spec && copy.content == plain.content);

    let mut with = chain(&bench, "one");
    with.environment.insert("LISTS".into(), "a secret".into());
    assert!(!StudyId::of(&with, root).is_variant_of(&plain));

    // How stages are run makes no other study.
    let mut slower = chain(&bench, "one");
    slower.nodes[0].execution.retries = 7;
    assert_eq!(StudyId::of(&slower, root), plain);
}

#[test]
fn a_project_that_moves_with_its_cache_keeps_its_studies() {
    let bench = Bench::new();
    let mut study = chain(&bench, "one");
    let [here, there] = ["here", "there"].map(|name| bench.dir.path().join(name));
    for project in [&here, &there] {
        fs::create_dir_all(project.join("specs")).unwrap();
        fs::create_dir_all(project.join(".dcsft")).unwrap();
    }
    let mut id = |project: &Path| {
        study.root = project.join("specs");
        study.spec = study.root.join("test.yaml");
        StudyId::of(&study, &project.join(".dcsft"))
    };
    assert_eq!(id(&here), id(&there));
}

#[test]
fn the_history_of_a_study_begins_with_its_own_overrides_and_ends_with_its_spec() {
    let bench = Bench::new();
    let study = chain(&bench, "one");
    let first = ended(&bench, &study, 2);
    let mut other = chain(&bench, "one");
    other.spec = bench.dir.path().join("other.yaml");
    ended(&bench, &other, 2);
    let set = overridden(&bench, "three", &["vars.x=3"]);
    let second = ended(&bench, &set, 2);
    let third = ended(&bench, &study, 0);
    assert_eq!(
        history(&bench, &study),
        [&third, &first, &second].map(String::as_str)
    );
    assert_eq!(
        history(&bench, &set),
        [&second, &third, &first].map(String::as_str)
    );
    assert_eq!(history(&bench, &other).len(), 1);
}

#[test]
fn why_compares_with_the_run_that_had_the_same_overrides() {
    let bench = Bench::new();
    let plain = chain(&bench, "one");
    bench.run(&plain);
    bench.run(&overridden(&bench, "three", &["vars.x=3"]));
    let reason = |study: &Study| {
        let plan = bench.plan(study);
        let mut explainer = Explainer::new(study, &bench.registry, &plan, &bench.store);
        explainer
            .explain_briefly(node(study, "a").id)
            .unwrap()
            .reason
    };
    let was = |reason: Reason| match reason {
        Reason::Changed(comparison) => comparison.changes[0].to_string(),
        other => panic!("{other:?}"),
    };
    let edited = was(reason(&chain(&bench, "two")));
    assert!(edited.contains("\"one\" -> \"two\""), "{edited}");
    let edited = was(reason(&overridden(&bench, "four", &["vars.x=3"])));
    assert!(edited.contains("\"three\" -> \"four\""), "{edited}");
    // Overrides that have never run: the latest run of the spec is what they are compared with.
    let new = was(reason(&overridden(&bench, "five", &["vars.x=5"])));
    assert!(new.contains("\"three\" -> \"five\""), "{new}");
}

#[test]
fn journals_of_a_newer_format_are_left_out() {
    let bench = Bench::new();
    let study = chain(&bench, "one");
    let old = ended(&bench, &study, 2);
    ended(&bench, &study, 2);
    let newer = latest(&bench).dir;
    change_header(&newer, |header| {
        *header = json!({"format": 99, "surprise": true})
    });
    let error = RunFolder::open(&newer).unwrap_err().to_string();
    assert!(error.contains("format 99"), "{error}");
    assert_eq!(latest(&bench).header.run, old);
}

#[test]
fn records_tell_the_program_the_machine_and_the_processor_time() {
    let bench = Bench::new();
    let program = Program {
        version: "9.9.9".into(),
        commit: Some("0123456789abcdef".into()),
        dirty: true,
    };
    let options = RunOptions {
        program: program.clone(),
        ..RunOptions::default()
    };
    let (outcome, _) = bench.run_with(&chain(&bench, "one"), &options);
    let executed = Execution::of(outcome.records[0].as_ref().unwrap());
    assert_eq!(executed.program.as_ref(), Some(&program));
    assert_eq!(program.to_string(), "9.9.9 (0123456789ab, with changes)");
    assert_eq!(executed.machine.as_ref(), Some(Machine::this()));
    assert!(executed.seconds > 0.0 && executed.threads.is_some());
    #[cfg(unix)]
    assert!(executed.cpu_seconds.is_some_and(|seconds| seconds > 0.0));
    let header = latest(&bench).header;
    assert_eq!(
        (header.program, header.machine),
        (executed.program, executed.machine)
    );
}

#[test]
fn records_without_these_facts_are_read_all_the_same() {
    let bench = Bench::new();
    let outcome = bench.run(&chain(&bench, "one"));
    let mut record = (**outcome.records[0].as_ref().unwrap()).clone();
    record.execution = Json::of(&json!({"seconds": 2.5, "threads": 1, "saved_seconds": 0.0}));
    let executed = Execution::of(&record);
    assert_eq!((executed.seconds, executed.cpu_seconds), (2.5, None));
    assert!(executed.program.is_none() && executed.shared.is_none());
    record.execution = Json::of(&Value::Null);
    assert_eq!(Execution::of(&record), Execution::default());
}

#[test]
fn old_journals_go_and_what_reports_and_gc_need_stays() {
    let bench = Bench::new();
    let runs = bench.store.runs_dir();
    let (study, other) = (chain(&bench, "one"), overridden(&bench, "one", &["x=1"]));
    let needed = ended(&bench, &other, 2);
    let worked = ended(&bench, &study, 1);
    for _ in 0..retention::KEEP_RUNS + 5 {
        ended(&bench, &study, 0);
    }
    let ids = || -> Vec<String> { journal::runs(&runs).map(|run| run.header.run).collect() };
    let all = ids();
    let would = retention::prune(&runs, true).unwrap();
    assert_eq!((would.runs, ids().len()), (5, all.len()), "only counted");
    assert!(would.bytes > 0);
    assert_eq!(retention::prune(&runs, false).unwrap(), would);
    let kept = ids();
    assert_eq!(kept[..retention::KEEP_RUNS], all[..retention::KEEP_RUNS]);
    assert_eq!(
        kept[retention::KEEP_RUNS..],
        [worked.clone(), needed.clone()]
    );

    for run in journal::runs(&runs) {
        change_header(&run.dir, |header| header["started_unix"] = json!(1_000_000));
    }
    let lives = begun(&bench, &study);
    change_header(&lives.dir, |header| {
        header["started_unix"] = json!(1_000_000)
    });
    retention::prune(&runs, false).unwrap();
    // Of each variant the newest, the newest that worked, the newest that ended well; and whoever lives.
    assert_eq!(ids(), [lives.run.clone(), kept[0].clone(), worked, needed]);
    drop(lives);
}

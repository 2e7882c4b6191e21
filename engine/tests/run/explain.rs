//! `why`, lock files and graphs of real runs.

use std::collections::BTreeSet;
use std::fs;

use dcsft_cache::Digest;
use dcsft_engine::lockfile::{Difference, Lock, LockError, Tolerance};
use dcsft_engine::plan;
use dcsft_engine::plan::{Plan, PlanOptions};
use dcsft_engine::run::RunOptions;
use dcsft_engine::stage::Registry;
use dcsft_engine::study::{NodeId, Study};
use dcsft_engine::why::{Change, Comparison, Explainer, Reason};
use serde_json::json;

use crate::kinds::NewerConcat;
use crate::support::{Bench, node};

fn why(bench: &Bench, study: &Study, title: &str) -> Reason {
    let plan = bench.plan(study);
    why_of_plan(bench, study, &plan, title)
}

fn why_of_plan(bench: &Bench, study: &Study, plan: &Plan, title: &str) -> Reason {
    let mut explainer = Explainer::new(study, &bench.registry, plan, &bench.store);
    explainer.explain(node(study, title).id).unwrap().reason
}

fn changes(reason: Reason) -> Vec<Change> {
    match reason {
        Reason::Changed(Comparison { changes, .. }) => changes,
        other => panic!("{other:?}"),
    }
}

fn chain(bench: &Bench, first: &str, second: &str) -> Study {
    bench
        .study()
        .stage("a", "concat", json!({"text": first}), &[])
        .stage("b", "concat", json!({"text": second}), &["a"])
        .build()
}

#[test]
fn why_says_that_a_stage_never_ran_and_what_comes_nearest() {
    let bench = Bench::new();
    let study = chain(&bench, "one", "two");
    assert_eq!(why(&bench, &study, "a"), Reason::NeverRan { nearest: None });
    bench.run(&study);
    let other = bench
        .study()
        .stage("c", "concat", json!({"text": "one", "keep": 5}), &[])
        .build();
    let Reason::NeverRan {
        nearest: Some(nearest),
    } = why(&bench, &other, "c")
    else {
        panic!()
    };
    assert_eq!(nearest.stage, "a");
    assert_eq!(nearest.changes.len(), 1, "{:?}", nearest.changes);
}

#[test]
fn why_names_the_param_with_old_and_new_value_and_the_place() {
    let bench = Bench::new();
    bench.run(&chain(&bench, "one", "two"));
    let changes = changes(why(&bench, &chain(&bench, "other", "two"), "a"));
    let place = format!("{}:1:20", bench.dir.path().join("test.yaml").display());
    let expected = Change::ParamChanged {
        path: "text".into(),
        old: Some(json!("one")),
        new: Some(json!("other")),
        place: Some(place.clone()),
    };
    assert_eq!(changes, [expected]);
    assert_eq!(
        changes[0].to_string(),
        format!("text: \"one\" -> \"other\" ({place})")
    );
}

#[test]
fn why_names_the_input_whose_content_changed() {
    let bench = Bench::new();
    let first = bench.run(&chain(&bench, "one", "two"));
    // The first stage has run with its change, the second has not.
    let upstream = bench
        .study()
        .stage("a", "concat", json!({"text": "other"}), &[])
        .build();
    let changed = bench.run(&upstream);
    let digest = |outcome: &dcsft_engine::run::RunOutcome| {
        outcome.records[0].as_ref().unwrap().outputs["out"].digest
    };
    let expected = Change::InputChanged {
        input: "parts".into(),
        upstream: Some("a.out".into()),
        old: Some(digest(&first)),
        new: Some(digest(&changed)),
    };
    assert_eq!(
        changes(why(&bench, &chain(&bench, "other", "two"), "b")),
        [expected]
    );
}

#[test]
fn why_names_changed_files() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("copy", "read_file", json!({"path": "a.txt"}), &[])
        .build();
    fs::write(bench.dir.path().join("a.txt"), "before").unwrap();
    bench.run(&study);
    fs::write(bench.dir.path().join("a.txt"), "afterwards").unwrap();
    let changes = changes(why(&bench, &study, "copy"));
    assert!(
        matches!(&changes[..], [Change::FileChanged { field, .. }] if field == "path"),
        "{changes:?}"
    );
}

#[test]
fn why_names_a_new_version_of_the_kind() {
    let bench = Bench::new();
    let study = chain(&bench, "one", "two");
    bench.run(&study);
    let newer = Registry::new(crate::kinds::numerics).with::<NewerConcat>();
    let plan = Plan::new(&study, &newer, &bench.store, PlanOptions::default()).unwrap();
    let changes = changes(why_of_plan(&bench, &study, &plan, "a"));
    assert_eq!(
        changes,
        [Change::VersionChanged {
            kind: "concat".into(),
            old: 1,
            new: 2
        }]
    );
}

#[test]
fn why_names_another_arithmetic() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("score", "score", json!({"value": 0.5}), &[])
        .build();
    bench.run(&study);
    let options = PlanOptions {
        device: "cuda:1".into(),
        ..PlanOptions::default()
    };
    let plan = Plan::new(&study, &bench.registry, &bench.store, options).unwrap();
    let changes = changes(why_of_plan(&bench, &study, &plan, "score"));
    assert_eq!(changes.len(), 1);
    assert_eq!(
        changes[0].to_string(),
        "computed with cuda/f32 instead of flex/f32"
    );
}

#[test]
fn why_tells_cached_forced_lost_failed_and_waiting_apart() {
    let bench = Bench::new();
    let study = chain(&bench, "one", "two");
    let first = bench.run(&study);
    assert!(matches!(why(&bench, &study, "a"), Reason::Cached { .. }));

    let options = PlanOptions {
        force: BTreeSet::from(["a".to_owned()]),
        ..PlanOptions::default()
    };
    let plan = Plan::new(&study, &bench.registry, &bench.store, options).unwrap();
    assert_eq!(why_of_plan(&bench, &study, &plan, "a"), Reason::Forced);
    assert!(matches!(
        why_of_plan(&bench, &study, &plan, "b"),
        Reason::Waits { on, known: Some(known) } if on == ["a"] && known.changes.is_empty()
    ));

    let changed = chain(&bench, "other", "three");
    let Reason::Waits {
        known: Some(known), ..
    } = why(&bench, &changed, "b")
    else {
        panic!()
    };
    assert!(
        matches!(&known.changes[..], [Change::ParamChanged { path, .. }] if path.to_string() == "text")
    );

    let files = bench
        .store
        .artifact_files(&crate::support::digest(&study, &first, "b"));
    fs::remove_dir_all(files.parent().unwrap()).unwrap();
    assert_eq!(why(&bench, &study, "b"), Reason::Lost);

    let bad = bench
        .study()
        .stage("bad", "broken", json!({"how": "fail"}), &[])
        .build();
    bench.run(&bad);
    assert_eq!(
        why(&bench, &bad, "bad"),
        Reason::Failed {
            message: "as it was told".into()
        }
    );
}

#[test]
fn a_lock_is_stable_sorted_text_that_reads_back() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("b", "concat", json!({"text": "one"}), &[])
        .cell(
            "a",
            "score",
            &[("seed", json!(0))],
            json!({"value": 0.5}),
            &["b"],
        )
        .build();
    let outcome = bench.run(&study);
    let lock = Lock::of(&study, &outcome.records).unwrap();
    let text = lock.to_text();
    assert_eq!(Lock::parse(&text).unwrap(), lock);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], r#"{"dcsft_lock":1,"spec":"test"}"#);
    assert!(
        lines[1].starts_with(r#"{"stage":"a[seed=0]","key":""#),
        "{}",
        lines[1]
    );
    assert!(
        lines[1].ends_with(r#""metrics":{"id/accuracy":0.5}}"#),
        "{}",
        lines[1]
    );
    assert!(
        lines[2].starts_with(r#"{"stage":"b","key":""#),
        "{}",
        lines[2]
    );

    let again = Bench::new();
    let elsewhere = again.run(&study);
    assert_eq!(
        Lock::of(&study, &elsewhere.records).unwrap().to_text(),
        text
    );
}

#[test]
fn an_unfinished_study_cannot_be_locked() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("bad", "broken", json!({"how": "fail"}), &[])
        .build();
    let outcome = bench.run(&study);
    let error = Lock::of(&study, &outcome.records).unwrap_err();
    assert_eq!(
        error.to_string(),
        "these stages have no result yet: bad; run the spec first"
    );
}

#[test]
fn broken_lock_files_are_refused_with_their_line() {
    let key = Digest::of_bytes(b"key");
    let line = format!(r#"{{"stage":"a","key":"{key}","outputs":{{}}}}"#);
    let head = r#"{"dcsft_lock":1,"spec":"test"}"#;
    for (text, line, part) in [
        (String::new(), 1, "it is empty"),
        ("stages:".to_owned(), 1, "this is not a lock file"),
        (
            r#"{"dcsft_lock":9,"spec":"test"}"#.to_owned(),
            1,
            "format 9",
        ),
        (format!("{head}\n{line}\n{line}\n"), 3, "`a` is there twice"),
        (
            format!("{head}\n{{\"stage\":\"a\"}}\n"),
            2,
            "missing field `key`",
        ),
    ] {
        let error = Lock::parse(&text).unwrap_err();
        assert!(
            matches!(&error, LockError::Line { line: found, .. } if *found == line),
            "{error}"
        );
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_locked_run_names_the_first_stage_that_diverged() {
    let bench = Bench::new();
    let study = chain(&bench, "one", "two");
    let outcome = bench.run(&study);
    let lock = Lock::of(&study, &outcome.records).unwrap();
    let check = |lock: &Lock, study: &Study| {
        lock.check_plan(study, &bench.plan(study), &bench.store, None)
            .unwrap()
    };
    assert_eq!(check(&lock, &study), None);
    assert_eq!(
        lock.check_results(&study, &outcome.records, &bench.store, None)
            .unwrap(),
        None
    );

    let divergence = check(&lock, &chain(&bench, "one", "else")).unwrap();
    assert_eq!(divergence.stage, "b");
    assert!(
        divergence.to_string().contains("text: \"two\" -> \"else\""),
        "{divergence}"
    );
    assert_eq!(
        check(&lock, &chain(&bench, "x", "else")).unwrap().stage,
        "a"
    );

    let mut other = lock.clone();
    other
        .stages
        .get_mut("a")
        .unwrap()
        .outputs
        .insert("out".into(), Digest::of_bytes(b"other"));
    let divergence = other
        .check_results(&study, &outcome.records, &bench.store, None)
        .unwrap()
        .unwrap();
    assert!(
        matches!(&divergence.what, Difference::Output { output, .. } if output == "out"),
        "{divergence}"
    );

    let mut other = lock.clone();
    other
        .stages
        .get_mut("b")
        .unwrap()
        .metrics
        .insert("characters".into(), json!(7));
    let divergence = check(&other, &study).unwrap();
    assert_eq!(
        divergence.to_string(),
        "b did the same work and characters is 6 instead of 7"
    );

    let mut other = lock.clone();
    other.stages.remove("b");
    assert_eq!(check(&other, &study).unwrap().what, Difference::NotLocked);
    let shorter = bench
        .study()
        .stage("a", "concat", json!({"text": "one"}), &[])
        .build();
    let divergence = check(&lock, &shorter).unwrap();
    assert_eq!(
        (divergence.stage.as_str(), divergence.what),
        ("b", Difference::Gone)
    );
}

#[test]
fn titles_that_are_no_file_names_get_a_log_all_the_same() {
    let bench = Bench::new();
    let long = "x".repeat(300);
    let study = bench
        .study()
        .cell(
            "a",
            "broken",
            &[("path", json!("a/b\\c"))],
            json!({"how": "fail"}),
            &[],
        )
        .cell(
            "a",
            "broken",
            &[("path", json!(long))],
            json!({"how": "exit"}),
            &[],
        )
        .build();
    let outcome = bench
        .run_with(
            &study,
            &RunOptions {
                keep_going: true,
                ..RunOptions::default()
            },
        )
        .0;
    assert_eq!(outcome.failed.len(), 2);
    for (_, failure) in &outcome.failed {
        assert!(failure.log.is_file(), "{}", failure.log.display());
    }
}

#[test]
fn graphs_show_stages_outputs_and_states() {
    let bench = Bench::new();
    let study = chain(&bench, "one", "two");
    let state = |id: NodeId| (id.0 == 0).then(|| "cached".to_owned());
    assert_eq!(
        plan::dot(&study, state),
        r#"digraph study {
  rankdir=LR;
  node [shape=box, style=rounded, fontname="sans-serif"];
  n0 [label="a\nconcat\ncached"];
  n1 [label="b\nconcat"];
  n0 -> n1 [label="out"];
}
"#
    );
    assert_eq!(
        plan::mermaid(&study, state),
        "flowchart LR\n  n0[\"a<br>concat<br>cached\"]\n  n1[\"b<br>concat\"]\n  n0 -- \"out\" --> n1\n"
    );
}

#[test]
fn graphs_escape_what_their_languages_read() {
    let bench = Bench::new();
    let study = bench
        .study()
        .cell(
            "a",
            "concat",
            &[("x", json!("say \"<b>\\n\""))],
            json!({}),
            &[],
        )
        .build();
    let state = |_: NodeId| None;
    assert!(plan::dot(&study, state).contains(r#"[label="a[x=say \"<b>\\n\"]\nconcat"]"#));
    assert!(
        plan::mermaid(&study, state).contains(r#"["a[x=say #quot;#lt;b>\n#quot;]<br>concat"]"#)
    );
}

/// A score of a text, which is another number on a GPU.
fn scored(bench: &Bench, of: &str, value: f64, drift: f64) -> Study {
    bench
        .study()
        .stage("one", "concat", json!({"text": "one"}), &[])
        .stage("two", "concat", json!({"text": "two"}), &[])
        .stage(
            "score",
            "score",
            json!({"value": value, "drift": drift}),
            &[of],
        )
        .build()
}

#[test]
fn another_arithmetic_is_compared_within_a_tolerance() {
    let bench = Bench::new();
    let small = scored(&bench, "one", 0.5, 0.0004);
    let cpu = bench.run(&small);
    let lock = Lock::parse(&Lock::of(&small, &cpu.records).unwrap().to_text()).unwrap();
    let on_gpu = |study: &Study| {
        let options = PlanOptions {
            device: "cuda:0".into(),
            ..PlanOptions::default()
        };
        Plan::new(study, &bench.registry, &bench.store, options).unwrap()
    };
    let check = |lock: &Lock, study: &Study, tolerance| {
        let tolerance = Tolerance::new(tolerance);
        lock.check_plan(study, &on_gpu(study), &bench.store, tolerance)
            .unwrap()
    };
    // Before it runs: the key is another one, and what is asked for is not.
    let strict = lock.check_plan(&small, &on_gpu(&small), &bench.store, None);
    assert!(matches!(
        strict.unwrap().unwrap().what,
        Difference::Key { .. }
    ));
    assert_eq!(check(&lock, &small, 1e-3), None);
    for other in [
        scored(&bench, "two", 0.5, 0.0004),
        scored(&bench, "one", 0.6, 0.0004),
    ] {
        let divergence = check(&lock, &other, 1e-3).unwrap();
        assert_eq!(divergence.stage, "score");
        assert!(
            matches!(divergence.what, Difference::Key { .. }),
            "{divergence}"
        );
    }
    // A lock file of a version that did not know what was asked for.
    let mut old = lock.clone();
    old.stages.get_mut("score").unwrap().work = None;
    assert!(check(&old, &small, 1e-3).is_some());

    // After it has run.
    let (gpu, _) = bench.run_plan(&small, &on_gpu(&small), &RunOptions::default());
    let results = |tolerance| {
        let tolerance = Tolerance::new(tolerance);
        lock.check_results(&small, &gpu.records, &bench.store, tolerance)
            .unwrap()
    };
    assert_eq!(results(1e-3), None);
    let beyond = results(1e-4).unwrap();
    assert!(
        beyond
            .to_string()
            .contains("id/accuracy is 0.5004 instead of 0.5, which is more than 0.0001 away"),
        "{beyond}"
    );
    let apart = lock.apart(&small, &gpu.records);
    assert_eq!(apart.len(), 1);
    assert_eq!((apart[0].stage.as_str(), apart[0].judged), ("score", true));
    assert_eq!(
        (&apart[0].locked, &apart[0].found),
        (&Some(json!(0.5)), &Some(json!(0.5004)))
    );
    // The same arithmetic has to give the same bytes, whatever is tolerated.
    let mut other = lock.clone();
    let outputs = &mut other.stages.get_mut("one").unwrap().outputs;
    outputs.insert("out".into(), Digest::of_bytes(b"other"));
    assert!(matches!(
        check(&other, &small, 1.0).unwrap().what,
        Difference::Output { .. }
    ));
}

#[test]
fn a_tolerance_is_a_number_from_0() {
    for wrong in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(Tolerance::new(wrong).is_none());
    }
    assert!(Tolerance::new(0.0).is_some());
}

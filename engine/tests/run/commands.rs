//! Programs as stages, from the text of a spec to what they leave in the cache.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dcsft_cache::Store;
use dcsft_engine::journal::{Failure, Reason, RunEvent};
use dcsft_engine::plan::NodeState;
use dcsft_engine::results;
use dcsft_engine::run::RunOptions;
use dcsft_engine::spec;
use dcsft_engine::study::Study;

use crate::support::Bench;

const HEAD: &str = "dcsft: 1\nname: test\nstages:\n  made: {uses: concat, with: {text: hello}}\n";

/// The study of a spec with a stage `made`, whose output holds `value.txt`, and `stages`.
fn study(bench: &Bench, stages: &str) -> Study {
    match load(bench, stages) {
        Ok(study) => study,
        Err(message) => panic!("{message}"),
    }
}

fn load(bench: &Bench, stages: &str) -> Result<Study, String> {
    let path = bench.dir.path().join("test.yaml");
    fs::write(&path, format!("{HEAD}{stages}")).unwrap();
    match spec::load(&path, &[], &bench.registry) {
        Ok(loaded) => Ok(loaded.study),
        Err(found) => Err(found.render(false)),
    }
}

/// A stage `run` with a script.
fn script(lines: &str, rest: &str) -> String {
    let lines = lines.replace('\n', "\n        ");
    format!("  run:\n    uses: command\n    with:\n      shell: |\n        {lines}\n{rest}")
}

const OUT: &str = "      outputs: {out: files}\n";

/// What the stage `run` wrote to `name` in its output `output`.
fn wrote(bench: &Bench, study: &Study, output: &str, name: &str) -> String {
    let outcome = bench.run(study);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    let at = study
        .nodes
        .iter()
        .position(|node| node.stage == "run")
        .unwrap();
    let record = outcome.records[at].as_ref().unwrap();
    let folder = bench.store.artifact_files(&record.outputs[output].digest);
    fs::read_to_string(folder.join(name)).unwrap()
}

/// How the stage `run` fails, and what the run said meanwhile.
fn fails(bench: &Bench, stages: &str) -> (Failure, Vec<RunEvent>) {
    let study = study(bench, stages);
    let (outcome, events) = bench.run_with(&study, &RunOptions::default());
    assert_eq!(outcome.failed.len(), 1, "{:?}", outcome.failed);
    (outcome.failed[0].1.clone(), events)
}

#[test]
fn a_program_gets_its_inputs_files_and_outputs_and_runs_once() {
    let bench = Bench::new();
    fs::create_dir(bench.dir.path().join("lib")).unwrap();
    fs::write(
        bench.dir.path().join("lib/join.sh"),
        "cat \"$1\"/value.txt \"$2\"",
    )
    .unwrap();
    fs::write(bench.dir.path().join("end.txt"), ", world").unwrap();
    let study = study(
        &bench,
        r#"
  run:
    uses: command
    with:
      argv: [sh, -c, 'sh lib/join.sh "$1" "$2" > "$3"/text; pwd > "$DCSFT_OUTPUT_out/where"', sh, "${inputs.data}", end.txt, "${outputs.out}"]
      inputs: {data: "${made}"}
      outputs: {out: files}
      files: [lib, ./end.txt]
"#,
    );
    assert_eq!(wrote(&bench, &study, "out", "text"), "hello, world");
    // In a folder of its own, which is gone.
    let folder = wrote(&bench, &study, "out", "where");
    assert!(!fs::exists(folder.trim()).unwrap(), "{folder}");
    assert_eq!(bench.run(&study).executed, 0);
}

#[test]
fn an_input_of_many_artifacts_is_as_many_arguments() {
    let bench = Bench::new();
    let study = study(
        &bench,
        r#"
  more: {uses: concat, matrix: {text: [a, b]}, with: {text: "${matrix.text}"}}
  run:
    uses: command
    with:
      argv: [sh, -c, 'for d in "$@"; do cat "$d/value.txt"; done > "$DCSFT_OUTPUT_out/text"', sh, "${inputs.all}"]
      inputs: {all: ["${made}", "${more[*]}"]}
      outputs: {out: files}
"#,
    );
    assert_eq!(wrote(&bench, &study, "out", "text"), "helloab");
}

#[test]
fn skipped_inputs_are_left_out_and_a_stage_with_no_other_is_skipped_too() {
    let bench = Bench::new();
    let study = study(
        &bench,
        r#"
  gone: {uses: concat, with: {text: "skipped: no samples"}}
  run:
    uses: command
    with:
      argv: [sh, -c, 'cat "$@" > "$DCSFT_OUTPUT_out/text"', sh, "${inputs.some}/value.txt"]
      inputs: {some: ["${gone}", "${made}"]}
      outputs: {out: files}
  none:
    uses: command
    with: {argv: [cat, "${inputs.data}"], inputs: {data: "${gone}"}, outputs: {out: files}}
"#,
    );
    assert_eq!(wrote(&bench, &study, "out", "text"), "hello");
    let outcome = bench.run(&study);
    let summary = |stage: &str| {
        let at = study
            .nodes
            .iter()
            .position(|node| node.stage == stage)
            .unwrap();
        outcome.records[at].as_ref().unwrap().summary.to_string()
    };
    assert!(summary("run").contains("1 of 2 artifacts of `inputs.some` were skipped: no samples"));
    assert_eq!(summary("none"), r#"{"skipped":"no samples"}"#);
}

#[test]
fn a_program_sees_the_environment_that_is_declared_and_a_small_base() {
    let bench = Bench::new();
    let lines = "env > ${outputs.out}/env";
    let rest = format!("{OUT}      env: [NAME=a value, \"HERE=${{outputs.out}}\", NOWHERE_SET]\n");
    let found = wrote(&bench, &study(&bench, &script(lines, &rest)), "out", "env");
    let names: Vec<&str> = found
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    assert!(found.contains("NAME=a value\n"), "{found}");
    assert!(
        found.contains("DCSFT_OUTPUT_out=/") && found.contains("HERE=/"),
        "{found}"
    );
    for name in [
        "PATH",
        "DCSFT_JOB",
        "DCSFT_EVENTS",
        "DCSFT_STATE",
        "DCSFT_THREADS",
    ] {
        assert!(names.contains(&name), "no {name} in {names:?}");
    }
    // The worker has these, and the program has not.
    for name in [
        "NOWHERE_SET",
        "RAYON_NUM_THREADS",
        "DCSFT_TEST_WORKER",
        "CARGO_MANIFEST_DIR",
    ] {
        assert!(!names.contains(&name), "{name} in {names:?}");
    }
}

/// The key of the stage `run`.
fn key(bench: &Bench, stages: &str) -> String {
    let study = study(bench, stages);
    let plan = bench.plan(&study);
    let at = study
        .nodes
        .iter()
        .position(|node| node.stage == "run")
        .unwrap();
    match &plan.nodes[at].state {
        NodeState::ToRun { key, .. } => key.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_declared_is_the_identity_and_nothing_else() {
    let bench = Bench::new();
    let file = bench.dir.path().join("a.sh");
    fs::write(&file, "one").unwrap();
    let base = script("true", &format!("{OUT}      files: [a.sh]\n"));
    let first = key(&bench, &base);
    let with = |rest: &str| key(&bench, &format!("{base}{rest}"));
    for other in [
        "      version: 2\n",
        "      env: [A=1]\n",
        "      env: [PATH]\n",
        "      ok_exit_codes: [0, 1]\n",
        "      pass_env: [PATH]\n",
    ] {
        assert_ne!(with(other), first, "{other}");
    }
    assert_eq!(with("    timeout: 1h\n    description: hm\n"), first);
    let moved = base.replace("[a.sh]", "[b/a.sh]");
    fs::create_dir(bench.dir.path().join("b")).unwrap();
    fs::copy(&file, bench.dir.path().join("b/a.sh")).unwrap();
    // The program finds it elsewhere.
    assert_ne!(key(&bench, &moved), first);
    fs::write(&file, "two").unwrap();
    assert_ne!(key(&bench, &base), first);
    // What passes through is not written down.
    let bench = Bench::new();
    let path = std::env::var("PATH").unwrap();
    for (field, told) in [("env", true), ("pass_env", false)] {
        let study = study(
            &bench,
            &script("true", &format!("{OUT}      {field}: [PATH]\n")),
        );
        assert_eq!(
            study.nodes[1].params.value().to_string().contains(&path),
            told
        );
    }
}

#[test]
fn events_and_lines_of_a_program_reach_the_run() {
    let bench = Bench::new();
    let lines = r#"echo '{"event": "progress", "done": 3, "total": 7, "unit": "step", "fields": {"loss": 0.5}}'
echo '{"event": "warning", "message": "mind the gap"}'
echo '{"loss": 1}'
echo said >&2
printf '{"event": "progress", "done": 7, "total": 7, "unit": "step"}' >> "$DCSFT_EVENTS"
echo 1 > ${outputs.out}/x"#;
    let study = study(&bench, &script(lines, OUT));
    let (outcome, events) = bench.run_with(&study, &RunOptions::default());
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    let text = format!("{events:?}");
    for part in [
        "done: 3, total: 7",
        "\"loss\": 0.5",
        "done: 7, total: 7",
        "mind the gap",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let log = events.iter().find_map(|event| match event {
        RunEvent::StageStarted { stage, log, .. } if stage == "run" => Some(log.clone()),
        _ => None,
    });
    let log = fs::read_to_string(log.unwrap()).unwrap();
    assert!(
        log.contains("{\"loss\": 1}\n") && log.contains("said\n"),
        "{log}"
    );
}

#[test]
fn programs_that_end_badly_say_how() {
    for (lines, rest, part) in [
        ("exit 3", OUT, "`exit 3` ended with exit code 3, not 0"),
        (
            "false\necho 1 > ${outputs.out}/x",
            OUT,
            "ended with exit code 1",
        ),
        (
            "echo $UNSET > ${outputs.out}/x",
            OUT,
            "ended with exit code",
        ),
        (
            "kill -9 $$",
            OUT,
            "was killed by signal 9: it may have run out of memory",
        ),
        ("true", OUT, "wrote nothing to its output `out`"),
        (
            "mkdir ${outputs.out}/../other\necho 1 > ${outputs.out}/x",
            OUT,
            "wrote `other` beside its outputs `out`: declare it",
        ),
        (
            "echo 1 > ${outputs.out}/x",
            "      outputs: {out: dataset}\n",
            "the output `out` is not what it is declared to be: there is no value.txt",
        ),
        (
            "chmod u+w ${inputs.data}/value.txt\necho 1 > ${inputs.data}/value.txt\necho 1 > ${outputs.out}/x",
            "      outputs: {out: files}\n      inputs: {data: \"${made}\"}\n",
            "wrote to its input `data`: `value.txt` is not what it was",
        ),
    ] {
        let bench = Bench::new();
        let (failure, _) = fails(&bench, &script(lines, rest));
        assert_eq!(failure.reason, Reason::Failed);
        assert!(
            failure.message.contains(part),
            "{lines}: {}",
            failure.message
        );
    }
}

#[test]
fn programs_that_cannot_be_started_say_why() {
    for (argv, part) in [
        (
            "[no-such-program-here]",
            "`no-such-program-here` cannot be started: No such file or directory (os error 2): no folder of PATH has it",
        ),
        ("[./a.sh]", "has to be listed in `files:`"),
        ("[./b.sh]", "not marked as one (chmod +x)"),
    ] {
        let bench = Bench::new();
        fs::write(bench.dir.path().join("b.sh"), "echo").unwrap();
        let stages = format!(
            "  run: {{uses: command, with: {{argv: {argv}, files: [b.sh], outputs: {{out: files}}}}}}\n"
        );
        let (failure, _) = fails(&bench, &stages);
        assert!(
            failure.message.contains(part),
            "{argv}: {}",
            failure.message
        );
    }
}

#[test]
fn exit_codes_of_ones_own_can_be_good() {
    let bench = Bench::new();
    let rest = format!("{OUT}      ok_exit_codes: [0, 3]\n");
    let study = study(&bench, &script("echo x > ${outputs.out}/x\nexit 3", &rest));
    assert_eq!(wrote(&bench, &study, "out", "x"), "x\n");
}

#[test]
fn what_a_program_leaves_running_is_ended_before_its_outputs_are_read() {
    let bench = Bench::new();
    // One that goes on writing, in a session of its own and with its output closed.
    let lines = "setsid sh -c 'while :; do echo x >> '${outputs.out}'/x; sleep 0.01; done' > /dev/null 2>&1 &\necho y > ${outputs.out}/y";
    let study = study(&bench, &script(lines, OUT));
    let began = Instant::now();
    let (outcome, events) = bench.run_with(&study, &RunOptions::default());
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert!(began.elapsed() < Duration::from_secs(20));
    let text = format!("{events:?}");
    assert!(
        text.contains("left processes behind, which were ended: sh"),
        "{text}"
    );
    let still = bench.dir.path().display().to_string();
    let running = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&format!("echo x >> {still}"))
    });
    assert!(!running);
}

#[test]
fn a_timeout_ends_a_program_and_all_it_started() {
    let bench = Bench::new();
    let lines = "trap '' TERM\nsleep 77.125 &\nsleep 77.125";
    let (failure, _) = fails(&bench, &script(lines, &format!("{OUT}    timeout: 0.5\n")));
    assert_eq!(failure.reason, Reason::TimedOut);
    std::thread::sleep(Duration::from_millis(100));
    let running = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("77.125")
    });
    assert!(!running);
}

#[test]
fn an_interrupted_program_is_asked_to_end_and_goes_on_from_what_it_kept() {
    let bench = Bench::new();
    let lines = r#"if [ -e "$DCSFT_STATE/kept" ]; then cp "$DCSFT_STATE/kept" ${outputs.out}/x; exit 0; fi
trap 'echo half > "$DCSFT_STATE/kept"; exit 0' TERM
echo '{"event": "progress", "done": 1, "total": 2, "unit": "step"}'
while :; do sleep 0.01; done"#;
    let study = study(&bench, &script(lines, OUT));
    let interrupted = Arc::new(AtomicBool::new(false));
    let options = RunOptions {
        interrupted: Arc::clone(&interrupted),
        ..RunOptions::default()
    };
    let mut stop = |event: &RunEvent| {
        if matches!(event, RunEvent::Progress { .. }) {
            interrupted.store(true, Ordering::Relaxed);
        }
    };
    let plan = bench.plan(&study);
    let outcome = dcsft_engine::run::run(
        &study,
        &bench.registry,
        &plan,
        &bench.store,
        &options,
        &bench.executor(),
        &mut stop,
    );
    let outcome = outcome.unwrap();
    assert!(
        outcome.interrupted && outcome.failed.is_empty(),
        "{:?}",
        outcome.failed
    );
    assert_eq!(wrote(&bench, &study, "out", "x"), "half\n");
}

#[test]
fn metrics_of_a_program_are_results() {
    let bench = Bench::new();
    let lines = r#"cat > ${outputs.scores}/metrics.jsonl <<END
{"metric": "accuracy", "value": 0.25, "set": "val", "n": 8, "ci": [0.1, 0.4]}
{"metric": "accuracy", "value": 0.5, "set": "val", "step": 100}

{"metric": "loss", "value": 2, "arm": "other", "split": "ood", "set": "sketch"}
END"#;
    let study = study(&bench, &script(lines, "      outputs: {scores: metrics}\n"));
    let outcome = bench.run(&study);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    let rows = results::rows(&study, &outcome.records).rows;
    let lines: Vec<String> = rows
        .iter()
        .map(|row| serde_json::to_string(row).unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            r#"{"arm":"run","axes":{},"step":null,"set":"val","split":"id","metric":"accuracy","value":0.25,"n":8,"ci":[0.1,0.4],"stage":"run"}"#,
            r#"{"arm":"run","axes":{},"step":100,"set":"val","split":"id","metric":"accuracy","value":0.5,"n":null,"ci":null,"stage":"run"}"#,
            r#"{"arm":"other","axes":{},"step":null,"set":"sketch","split":"ood","metric":"loss","value":2.0,"n":null,"ci":null,"stage":"run"}"#,
        ]
    );
}

#[test]
fn metrics_that_are_none_are_refused_with_their_place() {
    let good = r#"{"metric": "m", "value": 1}"#;
    for (file, text, part) in [
        (
            "x",
            good,
            "it holds neither `metrics.jsonl` (an object a line) nor `metrics.json`",
        ),
        ("metrics.jsonl", "", "`metrics.jsonl` holds no metrics"),
        (
            "metrics.jsonl",
            r#"{"metric": "m"}"#,
            "`metrics.jsonl`, line 1: missing field `value`",
        ),
        (
            "metrics.jsonl",
            r#"{"metric": "m", "value": NaN}"#,
            "line 1: `NaN` is no number",
        ),
        (
            "metrics.jsonl",
            r#"{"metric": "m", "value": 1, "seed": 1}"#,
            "unknown field `seed`",
        ),
        (
            "metrics.jsonl",
            r#"{"metric": "m", "value": 1, "split": "test"}"#,
            "`split` is `id` or `ood`, not `test`",
        ),
        (
            "metrics.jsonl",
            r#"{"metric": "m", "value": 1, "ci": [1, 0]}"#,
            "1 is above 0",
        ),
        (
            "metrics.json",
            r#"{"metric": "m", "value": 1}"#,
            "it is no list of objects",
        ),
        (
            "metrics.json",
            r#"[{"metric": "m", "value": "1"}]"#,
            "item 1: invalid type",
        ),
        (
            "metrics.json",
            r#"[{"metric": "m", "value": 1}, {"metric": "m", "value": 2}]"#,
            "the metric `m` of the set `-` is there twice",
        ),
    ] {
        let bench = Bench::new();
        let lines = format!("printf '%s' '{text}' > ${{outputs.scores}}/{file}");
        let (failure, _) = fails(
            &bench,
            &script(&lines, "      outputs: {scores: metrics}\n"),
        );
        assert!(
            failure.message.contains(part),
            "{text}: {}",
            failure.message
        );
    }
}

#[test]
fn a_shell_does_not_get_a_folder_that_it_would_take_apart() {
    let mut bench = Bench::new();
    bench.store = Store::open(&bench.dir.path().join("a cache")).unwrap();
    let study = study(&bench, &script("echo 1 > ${outputs.out}/x", OUT));
    let outcome = bench.run(&study);
    let message = &outcome.failed[0].1.message;
    assert!(
        message.contains("a shell would not read") && message.contains("use `argv`"),
        "{message}"
    );
    let study = self::study(&bench, &script("echo 1 > \"$DCSFT_OUTPUT_out/x\"", OUT));
    assert_eq!(wrote(&bench, &study, "out", "x"), "1\n");
}

#[test]
fn mistakes_in_a_command_are_found_where_they_stand() {
    for (with, part) in [
        (
            "outputs: {out: files}",
            "needs `argv: [PROGRAM, ARGUMENT, ...]` or `shell: \"...\"`",
        ),
        (
            "argv: [a], shell: b, outputs: {out: files}",
            "a command has `argv` or `shell`, not both",
        ),
        ("argv: [a]", "a command has at least one output"),
        (
            "argv: [a], outputs: {out: log}",
            "is one of `dataset`, `model`, `rollouts`, `metrics`, `files`, not the text \"log\"",
        ),
        (
            "argv: [a], outputs: {a-b: files}",
            "`a-b` cannot name an output",
        ),
        (
            "argv: [a, \"${inputs.dta}\"], inputs: {data: \"${made}\"}, outputs: {out: files}",
            "`inputs` has no `dta`",
        ),
        (
            "argv: [a, \"${outputs.uot}\"], outputs: {out: files}",
            "did you mean `out`?",
        ),
        (
            "argv: [a, \"${made}\"], outputs: {out: files}",
            "takes a value, not a reference to a stage",
        ),
        (
            "argv: [a], inputs: {data: made}, outputs: {out: files}",
            "`inputs.data` takes a reference to a stage",
        ),
        (
            "argv: [a], inputs: \"${made}\", outputs: {out: files}",
            "takes a map from names to references",
        ),
        (
            "argv: [a], inputs: {a-b: \"${made}\"}, outputs: {out: files}",
            "`a-b` cannot name an input",
        ),
        (
            "argv: [a], inputs: {data: \"${nothing}\"}, outputs: {out: files}",
            "there is no stage `nothing`",
        ),
        (
            "argv: [a], env: [DCSFT_JOB=1], outputs: {out: files}",
            "are set by the engine",
        ),
        (
            "argv: [a], env: [A-B], outputs: {out: files}",
            "is no name of a variable",
        ),
        (
            "argv: [a], env: [A], pass_env: [A], outputs: {out: files}",
            "which `env` makes part of the key",
        ),
        (
            "argv: [a], files: [none.py], outputs: {out: files}",
            "none.py",
        ),
        (
            "argv: [a], files: [/x/a.py, a.py], outputs: {out: files}",
            "would both be `a.py`",
        ),
        (
            "argv: [a], ok_exit_codes: [], outputs: {out: files}",
            "no end would be a good one",
        ),
        (
            "argv: [a], ok_exit_codes: [300], outputs: {out: files}",
            "255",
        ),
        ("argv: [a], tiemout: 3, outputs: {out: files}", "tiemout"),
    ] {
        let bench = Bench::new();
        let stages = format!("  run: {{uses: command, with: {{{with}}}}}\n");
        let Err(message) = load(&bench, &stages) else {
            panic!("{with}: it loads");
        };
        assert!(message.contains(part), "{with}:\n{message}");
        assert!(message.contains("test.yaml:5:"), "{with}:\n{message}");
    }
}

//! GPUs for stages that ask for some.

use std::fs;

use dcsft_engine::journal::RunEvent;
use dcsft_engine::run::{self, RunError, RunOptions, RunOutcome};
use dcsft_engine::spec;
use dcsft_engine::study::Study;

use crate::support::{Bench, titles};

/// A study of `count` programs that ask for `gpus` GPUs each, and write down which they see.
fn programs(bench: &Bench, count: usize, gpus: usize) -> Study {
    let path = bench.dir.path().join("test.yaml");
    let text = format!(
        r#"
dcsft: 1
name: test
stages:
  run:
    uses: command
    resources: {{gpus: {gpus}}}
    matrix: {{i: {{range: [1, {count}]}}}}
    with:
      shell: |
        echo "${{matrix.i}} $CUDA_VISIBLE_DEVICES $DCSFT_DEVICE" > "$DCSFT_OUTPUT_out/text"
      outputs: {{out: files}}
"#
    );
    fs::write(&path, text).unwrap();
    match spec::load(&path, &[], &bench.registry) {
        Ok(loaded) => loaded.study,
        Err(found) => panic!("{}", found.render(false)),
    }
}

fn with_gpus(count: usize) -> RunOptions {
    RunOptions {
        jobs: Some(4),
        gpus: (0..count).map(|index| format!("cuda:{index}")).collect(),
        ..RunOptions::default()
    }
}

/// Runs the study where the run itself is left two GPUs.
fn run(
    bench: &Bench,
    study: &Study,
    options: &RunOptions,
    events: &mut Vec<RunEvent>,
) -> Result<RunOutcome, RunError> {
    let mut executor = bench.executor();
    let visible = ("CUDA_VISIBLE_DEVICES".to_owned(), "GPU-a,GPU-b".to_owned());
    executor.worker.env.push(visible);
    run::run(
        study,
        &bench.registry,
        &bench.plan(study),
        &bench.store,
        options,
        &executor,
        &mut |event: &RunEvent| events.push(event.clone()),
    )
}

/// What the programs saw: GPUs, and the device that they were told of.
fn seen(bench: &Bench, study: &Study, options: &RunOptions) -> (Vec<String>, Vec<RunEvent>) {
    let mut events = Vec::new();
    let outcome = run(bench, study, options, &mut events).unwrap();
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    let records = outcome.records.iter().flatten();
    let texts = records.map(|record| {
        let folder = bench.store.artifact_files(&record.outputs["out"].digest);
        let text = fs::read_to_string(folder.join("text")).unwrap();
        text.trim().split_once(' ').unwrap().1.to_owned()
    });
    (texts.collect(), events)
}

/// The most stages that ran at once.
fn at_once(events: &[RunEvent]) -> usize {
    let (mut now, mut most) = (0, 0);
    for event in events {
        match event {
            RunEvent::StageStarted { .. } => now += 1,
            RunEvent::StageFinished { .. } => now -= 1,
            _ => {}
        }
        most = most.max(now);
    }
    most
}

#[test]
fn programs_that_ask_for_all_gpus_run_one_after_the_other() {
    let bench = Bench::new();
    let study = programs(&bench, 3, 2);
    let (seen, events) = seen(&bench, &study, &with_gpus(2));
    assert_eq!(seen, ["GPU-a,GPU-b cuda:0"; 3]);
    assert_eq!(at_once(&events), 1);
}

#[test]
fn each_program_sees_the_gpu_that_is_its_own_as_the_first() {
    let bench = Bench::new();
    let study = programs(&bench, 6, 1);
    let (seen, events) = seen(&bench, &study, &with_gpus(2));
    assert_eq!(seen.len(), 6);
    for seen in &seen {
        let own = ["GPU-a cuda:0", "GPU-b cuda:0"];
        assert!(own.contains(&seen.as_str()), "{seen:?}");
    }
    assert!(at_once(&events) <= 2);
}

#[test]
fn gpus_mean_nothing_where_none_is_found_and_for_programs_that_ask_for_none() {
    for (gpus, there) in [(2, 0), (0, 2)] {
        let bench = Bench::new();
        let study = programs(&bench, 1, gpus);
        let (seen, _) = seen(&bench, &study, &with_gpus(there));
        assert_eq!(seen, ["GPU-a,GPU-b cpu"]);
    }
}

#[test]
fn a_program_that_asks_for_more_gpus_than_there_are_is_refused_before_anything_starts() {
    let bench = Bench::new();
    let study = programs(&bench, 1, 3);
    let mut events = Vec::new();
    let error = run(&bench, &study, &with_gpus(2), &mut events)
        .unwrap_err()
        .to_string();
    let said =
        "can never start: it asks for 3 accelerators, and this machine has 2 (`resources` at ";
    assert!(error.contains(said), "{error}");
    let started = |event: &RunEvent| matches!(event, RunEvent::StageStarted { .. });
    assert!(titles(&events, started).is_empty());
}

//! A cache in a temporary folder, studies built by hand, and workers that are this test binary again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dcsft_cache::{Digest, Store};
use dcsft_engine::journal::RunEvent;
use dcsft_engine::plan::{Plan, PlanOptions};
use dcsft_engine::run::{self, LocalExecutor, RunOptions, RunOutcome, WorkerCommand};
use dcsft_engine::stage::{FieldPath, Registry};
use dcsft_engine::study::{ExecutionOptions, Node, NodeId, Place, Reference, Source, Study};
use dcsft_engine::worker;
use serde_json::Value;

use crate::kinds;

/// The command that runs the test `entry` of this binary, which then acts as a process of its own.
///
/// `--quiet` keeps the test harness from printing before the entry does.
pub(crate) fn this_binary(entry: &str) -> (PathBuf, Vec<String>) {
    let args = [
        "--exact",
        "--nocapture",
        "--quiet",
        "--test-threads=1",
        entry,
    ];
    (
        std::env::current_exe().unwrap(),
        args.map(str::to_owned).to_vec(),
    )
}

/// What a test that is the entry of another process does first: its last argument, if `marker` says it is one.
pub(crate) fn entry_argument(marker: &str) -> Option<String> {
    std::env::var_os(marker)?;
    std::env::args().next_back()
}

/// Set in workers.
pub(crate) const WORKER: &str = "DCSFT_TEST_WORKER";

/// Acts as a worker process and ends it.
pub(crate) fn be_worker(job: &str) -> ! {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, std::sync::atomic::Ordering::Relaxed)).unwrap();
    let code = worker::main(Path::new(job), &kinds::registry(), &interrupted, None);
    std::process::exit(i32::from(code));
}

/// A cache and a trace folder.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("trace")).unwrap();
        let store = Store::open(&dir.path().join("cache")).unwrap();
        Self {
            dir,
            store,
            registry: kinds::registry(),
        }
    }

    pub(crate) fn trace_dir(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    /// How often the stage with this tag has run, in all processes.
    pub(crate) fn runs_of(&self, tag: &str) -> usize {
        fs::read_to_string(self.trace_dir().join(tag)).map_or(0, |text| text.lines().count())
    }

    /// An empty study whose relative paths start here.
    pub(crate) fn study(&self) -> Builder {
        Builder::new(self.dir.path())
    }

    pub(crate) fn plan(&self, study: &Study) -> Plan {
        Plan::new(study, &self.registry, &self.store, PlanOptions::default()).unwrap()
    }

    pub(crate) fn executor(&self) -> LocalExecutor {
        executor(&self.trace_dir())
    }

    pub(crate) fn run(&self, study: &Study) -> RunOutcome {
        self.run_with(study, &RunOptions::default()).0
    }

    pub(crate) fn run_with(
        &self,
        study: &Study,
        options: &RunOptions,
    ) -> (RunOutcome, Vec<RunEvent>) {
        self.run_plan(study, &self.plan(study), options)
    }

    pub(crate) fn run_plan(
        &self,
        study: &Study,
        plan: &Plan,
        options: &RunOptions,
    ) -> (RunOutcome, Vec<RunEvent>) {
        let mut events = Vec::new();
        let mut keep = |event: &RunEvent| events.push(event.clone());
        let outcome = run::run(
            study,
            &self.registry,
            plan,
            &self.store,
            options,
            &self.executor(),
            &mut keep,
        )
        .unwrap();
        (outcome, events)
    }

    /// The text that a stage wrote.
    pub(crate) fn text(&self, study: &Study, outcome: &RunOutcome, title: &str) -> String {
        let digest = digest(study, outcome, title);
        fs::read_to_string(self.store.artifact_files(&digest).join("value.txt")).unwrap()
    }
}

/// The stages of the events that are `wanted`, in order.
pub(crate) fn titles(events: &[RunEvent], wanted: impl Fn(&RunEvent) -> bool) -> Vec<&str> {
    events
        .iter()
        .filter(|event| wanted(event))
        .filter_map(RunEvent::stage)
        .collect()
}

pub(crate) fn executor(trace: &Path) -> LocalExecutor {
    let (program, args) = this_binary("worker_entry");
    let env = vec![
        (WORKER.into(), "1".into()),
        (kinds::TRACE.into(), trace.to_str().unwrap().into()),
    ];
    LocalExecutor {
        worker: WorkerCommand { program, args, env },
        grace: Duration::from_millis(500),
    }
}

/// The digest of a stage's default output.
pub(crate) fn digest(study: &Study, outcome: &RunOutcome, title: &str) -> Digest {
    let node = node(study, title);
    let record = outcome.records[node.id.0]
        .as_ref()
        .unwrap_or_else(|| panic!("{title} has no result"));
    record.outputs[&node.outputs[0].name].digest
}

pub(crate) fn node<'a>(study: &'a Study, title: &str) -> &'a Node {
    study
        .nodes
        .iter()
        .find(|node| node.title() == title)
        .unwrap_or_else(|| panic!("no stage {title}"))
}

/// Builds a study stage by stage, parents first.
pub(crate) struct Builder {
    registry: Registry,
    study: Study,
}

impl Builder {
    pub(crate) fn new(root: &Path) -> Self {
        let study = Study {
            name: "test".into(),
            spec: root.join("test.yaml"),
            root: root.to_owned(),
            sources: vec![Source::File {
                path: root.join("test.yaml"),
                text: String::new(),
            }],
            overrides: Vec::new(),
            environment: BTreeMap::new(),
            nodes: Vec::new(),
            cells: 0,
        };
        Self {
            registry: kinds::registry(),
            study,
        }
    }

    /// A stage called `name` that reads the default outputs of the stages `parts`.
    pub(crate) fn stage(self, name: &str, kind: &str, params: Value, parts: &[&str]) -> Self {
        self.cell(name, kind, &[], params, parts)
    }

    /// As [`Builder::stage`], with axes.
    pub(crate) fn cell(
        mut self,
        name: &str,
        kind: &str,
        axes: &[(&str, Value)],
        params: Value,
        parts: &[&str],
    ) -> Self {
        let resolved = self
            .registry
            .get(kind)
            .unwrap()
            .resolve(&params, &self.study.root)
            .unwrap();
        let reference = |title: &&str| {
            let parent = node(&self.study, title);
            Reference {
                node: parent.id,
                output: parent.outputs[0].name.clone(),
            }
        };
        let inputs = vec![("parts".to_owned(), parts.iter().map(reference).collect())];
        let id = NodeId(self.study.nodes.len());
        let line = id.0 + 1;
        self.study.nodes.push(Node {
            id,
            stage: name.into(),
            kind: kind.into(),
            axes: axes
                .iter()
                .map(|(axis, value)| ((*axis).to_owned(), value.clone()))
                .collect(),
            arm: name.into(),
            params: resolved.params,
            inputs,
            outputs: resolved.outputs.into(),
            files: resolved.files.into(),
            execution: ExecutionOptions::default(),
            place: Place {
                source: 0,
                line,
                column: 3,
            },
            places: BTreeMap::from([(
                FieldPath::from("text"),
                Place {
                    source: 0,
                    line,
                    column: 20,
                },
            )])
            .into(),
        });
        self.study.cells += 1;
        self
    }

    /// Changes how the last stage is run.
    pub(crate) fn with_execution(mut self, change: impl FnOnce(&mut ExecutionOptions)) -> Self {
        change(&mut self.study.nodes.last_mut().unwrap().execution);
        self
    }

    pub(crate) fn build(self) -> Study {
        self.study
    }
}

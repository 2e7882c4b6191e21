//! One execution of one stage, on a thread of its own: attempts, publication, the record.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dcsft_cache::{Digest, Explain, KeyLock, OutputRef, Record, Store, StoreError};
use serde_json::json;

use super::event::Failure;
use super::executor::{End, Executor, Task};
use crate::cost::Cost;
use crate::executed::Executed;
use crate::key::{FileDigests, FilesIdentity, KeyPreimage};
use crate::kind::{Input, Relative, params_with_paths};
use crate::protocol::{Event, Job};
use crate::provenance::Program;
use crate::study::{Node, Study};

/// How many of the log's last lines a failure shows.
const TAIL_LINES: usize = 12;

/// A stage whose key is known and locked, with all it takes to run it.
pub(super) struct Assignment<'a> {
    pub(super) study: &'a Study,
    pub(super) node: &'a Node,
    /// Held until the record is committed.
    pub(super) lock: KeyLock,
    pub(super) preimage: Box<KeyPreimage>,
    pub(super) inputs: BTreeMap<String, Vec<Input>>,
    /// The family that the result belongs to, and what there is of it.
    pub(super) family: Option<Digest>,
    pub(super) relatives: Vec<Relative>,
    /// The files' identity at planning time.
    pub(super) files: BTreeMap<String, FilesIdentity>,
    pub(super) device: String,
    pub(super) threads: usize,
    pub(super) log: PathBuf,
    pub(super) backoff: Duration,
    pub(super) program: &'a Program,
}

/// What the thread says while it works.
pub(super) enum Word {
    Said(Event),
    Retries {
        attempts: u32,
        message: String,
        delay: Duration,
    },
}

/// How an execution ended.
pub(super) enum Outcome {
    Done(Arc<Record>),
    Failed(Failure),
    Interrupted,
}

/// What happened to an attempt that gave no result.
enum Trouble {
    Failed(String),
    Interrupted,
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the stage until it succeeds or has no retries left.
pub(super) fn execute(
    assignment: Assignment<'_>,
    store: &Store,
    executor: &dyn Executor,
    interrupted: &AtomicBool,
    mut tell: impl FnMut(Word),
) -> Outcome {
    let retries = assignment.node.execution.retries;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let tried = caught(|| {
            attempt(
                &assignment,
                attempts,
                store,
                executor,
                interrupted,
                &mut tell,
            )
        });
        let message = match tried {
            Ok(record) => return Outcome::Done(Arc::new(record)),
            Err(Trouble::Interrupted) => return Outcome::Interrupted,
            Err(Trouble::Failed(message)) => message,
        };
        if attempts > retries {
            return Outcome::Failed(failure(&assignment, message, attempts));
        }
        let delay = assignment.backoff * 2_u32.saturating_pow(attempts - 1);
        tell(Word::Retries {
            attempts,
            message,
            delay,
        });
        if !sleep(delay, interrupted) {
            return Outcome::Interrupted;
        }
    }
}

/// The scheduler waits for an answer, so a panic on this side of the worker fails the stage too.
fn caught(attempt: impl FnOnce() -> Result<Record, Trouble>) -> Result<Record, Trouble> {
    panic::catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let message = format!(
            "dcsft itself panicked: {}",
            text.unwrap_or("without a word")
        );
        Err(Trouble::Failed(message))
    })
}

fn attempt(
    assignment: &Assignment<'_>,
    attempts: u32,
    store: &Store,
    executor: &dyn Executor,
    interrupted: &AtomicBool,
    tell: &mut impl FnMut(Word),
) -> Result<Record, Trouble> {
    let Assignment { node, .. } = assignment;
    let key = assignment.lock.key();
    let workspace = store.workspace(key)?;
    let outputs = workspace.join("outputs");
    let job = write_job(assignment, &workspace)
        .map_err(|error| Trouble::Failed(format!("cannot write the job: {error}")))?;
    let _ = log_line(
        &assignment.log,
        &format!("# {} attempt {attempts} key {key}", node.title()),
    );

    let started = Instant::now();
    let started_unix = unix_seconds();
    let task = Task {
        job: &job,
        log: &assignment.log,
        threads: assignment.threads,
        timeout: node
            .execution
            .timeout
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|timeout| !timeout.is_zero()),
        interrupted,
    };
    let mut used = None;
    let end = executor.execute(&task, &mut |event| match event {
        Event::Used(usage) => used = Some(usage),
        event => tell(Word::Said(event)),
    });
    let spent = spent_before(&workspace)
        + Cost {
            seconds: started.elapsed().as_secs_f64(),
            cpu_seconds: used.as_ref().and_then(|usage| usage.cpu_seconds),
        };
    let (summary, peak_rss_bytes, saved_seconds) = match end {
        Ok(End::Done {
            summary,
            peak_rss_bytes,
            saved_seconds,
        }) => (summary, peak_rss_bytes, saved_seconds),
        Ok(End::Failed(message)) => return Err(Trouble::Failed(message)),
        Ok(End::Interrupted) => {
            // Only a figure for people: the next run adds it to its own.
            let _ = fs::write(spent_path(&workspace), json!(spent).to_string());
            return Err(Trouble::Interrupted);
        }
        Err(error) => return Err(Trouble::Failed(error.to_string())),
    };
    check_files(assignment, store)?;
    let record = Record {
        format: Record::FORMAT,
        key: *key,
        label: node.title(),
        explain: Explain::of(&assignment.preimage),
        outputs: publish(node, store, &outputs)?,
        summary,
        execution: json!(Executed {
            seconds: spent.seconds,
            cpu_seconds: spent.cpu_seconds,
            saved_seconds,
            saved_cpu_seconds: used.as_ref().and_then(|usage| usage.saved_cpu_seconds),
            threads: Some(assignment.threads),
            device: Some(assignment.device.clone()),
            attempts: Some(attempts),
            peak_rss_bytes,
            started_unix: Some(started_unix),
            other_cores: used.as_ref().and_then(|usage| usage.other_cores),
            shared: used
                .as_ref()
                .and_then(|usage| usage.shared(assignment.threads)),
            machine: used.map(|usage| usage.machine),
            program: Some(assignment.program.clone()),
        }),
        created_unix: unix_seconds(),
    };
    store.commit(&record)?;
    if let Some(family) = &assignment.family {
        // The result is there; that others do not find it only costs them time.
        let _ = store.join_family(family, key);
    }
    store.clear_workspace(key)?;
    Ok(record)
}

fn write_job(assignment: &Assignment<'_>, workspace: &Path) -> io::Result<PathBuf> {
    let job = Job {
        kind: assignment.node.kind.clone(),
        version: assignment.preimage.version,
        params: params_with_paths(assignment.node, &assignment.study.root),
        inputs: assignment.inputs.clone(),
        outputs: workspace.join("outputs"),
        state: workspace.join("state"),
        device: assignment.device.clone(),
        threads: assignment.threads,
        relatives: assignment.relatives.clone(),
    };
    let path = workspace.join("job.json");
    fs::write(&path, serde_json::to_vec(&job)?)?;
    Ok(path)
}

/// Refuses a result whose files changed while the stage read them: the key would promise what is not so.
fn check_files(assignment: &Assignment<'_>, store: &Store) -> Result<(), Trouble> {
    let now = FileDigests::new(store, false)
        .of(assignment.node)
        .map_err(|error| Trouble::Failed(error.to_string()))?;
    match assignment
        .files
        .iter()
        .find(|(field, identity)| now.get(*field) != Some(identity))
    {
        None => Ok(()),
        Some((field, _)) => Err(Trouble::Failed(format!(
            "the files of `{field}` changed while the stage ran: run again"
        ))),
    }
}

fn publish(
    node: &Node,
    store: &Store,
    outputs: &Path,
) -> Result<BTreeMap<String, OutputRef>, Trouble> {
    let mut published = BTreeMap::new();
    for output in &node.outputs {
        let dir = outputs.join(&output.name);
        if !dir.is_dir() {
            let message = format!(
                "the stage ended without writing its output `{}`",
                output.name
            );
            return Err(Trouble::Failed(message));
        }
        published.insert(output.name.clone(), OutputRef::from(&store.publish(&dir)?));
    }
    Ok(published)
}

fn failure(assignment: &Assignment<'_>, message: String, attempts: u32) -> Failure {
    Failure {
        message,
        attempts,
        place: assignment.study.place_text(&assignment.node.place),
        log: assignment.log.clone(),
        tail: tail(&assignment.log),
    }
}

fn tail(log: &Path) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

fn log_line(log: &Path, line: &str) -> io::Result<()> {
    writeln!(
        OpenOptions::new().create(true).append(true).open(log)?,
        "{line}"
    )
}

fn spent_path(workspace: &Path) -> PathBuf {
    workspace.join("spent.json")
}

/// What interrupted attempts spent, whose state this one carries on from.
fn spent_before(workspace: &Path) -> Cost {
    fs::read(spent_path(workspace))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_secs())
}

/// Sleeps; false if interrupted.
fn sleep(delay: Duration, interrupted: &AtomicBool) -> bool {
    let end = Instant::now() + delay;
    while Instant::now() < end {
        if interrupted.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20).min(delay));
    }
    !interrupted.load(Ordering::Relaxed)
}

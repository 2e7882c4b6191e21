//! The remote cache, as commands use it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dcsft_cache::{Digest, Pusher, Remote, Store, Traffic};
use dcsft_engine::journal::RunEvent;
use dcsft_engine::plan::Plan;
use dcsft_engine::run::Reporter;
use dcsft_engine::units;

use crate::cli::RemoteArgs;
use crate::exit::Failure;
use crate::output::count;
use crate::project_file::ProjectFile;
use crate::settings::threads_missing;
use crate::terminal::Terminal;

/// How long the end of a run waits for results that are on their way to the remote.
const PATIENCE: Duration = Duration::from_secs(300);

/// The remote that the command line names, or else the environment, or else the project's file.
///
/// # Errors
/// If it cannot be used.
pub(crate) fn named(args: &RemoteArgs, spec: &Path) -> Result<Option<Arc<Remote>>, Failure> {
    let url = match &args.remote {
        Some(url) => Some(url.clone()),
        None => ProjectFile::of(spec)?.remote,
    };
    // Set to nothing is not set.
    let url = url.filter(|url| !url.is_empty());
    url.map(|url| Remote::open(&url).map(Arc::new))
        .transpose()
        .map_err(|error| Failure::usage(error.to_string()))
}

/// Brings what a run computes to the remote, beside the run.
pub(crate) struct Upload {
    remote: Arc<Remote>,
    pusher: Pusher,
    /// Results that the plan has found here: `cache push` brings those.
    planned: HashSet<Digest>,
}

impl Upload {
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(remote: Arc<Remote>, store: &Store, plan: &Plan) -> Result<Self, Failure> {
        let pusher = Pusher::start(store.clone(), Arc::clone(&remote)).map_err(threads_missing)?;
        Ok(Self {
            remote,
            pusher,
            planned: found(plan).into_iter().collect(),
        })
    }

    fn push(&self, key: Digest) {
        if !self.planned.contains(&key) {
            self.pusher.push(key);
        }
    }

    /// Waits for what is on its way, and says what went to and fro.
    pub(crate) fn finish(self, terminal: Terminal, spec: &Path) {
        let name = self.remote.name();
        let left = self.pusher.finish(PATIENCE, |left| {
            let limit = PATIENCE.as_secs() / 60;
            terminal.say(&format!(
                "bringing {} to {name}, for {limit} min at most",
                results(left)
            ));
        });
        tell(terminal, &self.remote);
        if left > 0 {
            terminal.help(&format!(
                "{} not in {name}: `dcsft cache push {}` brings what is missing",
                match left {
                    1 => "1 result is".to_owned(),
                    left => format!("{left} results are"),
                },
                spec.display()
            ));
        }
    }
}

/// Says what is wrong with a remote, and what went to and fro. Whether nothing is wrong.
pub(crate) fn tell(terminal: Terminal, remote: &Remote) -> bool {
    let fine = tell_troubles(terminal, remote);
    let Traffic {
        pulled,
        pushed,
        bytes_down,
        bytes_up,
    } = remote.traffic();
    let moved = |number: u64| results(usize::try_from(number).unwrap_or(usize::MAX));
    let name = remote.name();
    if pulled > 0 {
        terminal.say(&format!(
            "{} from {name}, {}",
            moved(pulled),
            units::size(bytes_down)
        ));
    }
    if pushed > 0 {
        terminal.say(&format!(
            "{} to {name}, {}",
            moved(pushed),
            units::size(bytes_up)
        ));
    }
    fine
}

/// Says what is wrong with a remote. Whether nothing is.
pub(crate) fn tell_troubles(terminal: Terminal, remote: &Remote) -> bool {
    let troubles = remote.take_troubles();
    for trouble in &troubles {
        terminal.say(&format!("warning: {trouble}"));
    }
    troubles.is_empty()
}

/// `1 result`, `12 results`.
pub(crate) fn results(number: usize) -> String {
    count(number, "result", "results")
}

/// A reporter that has each new result brought to the remote as soon as it is there.
pub(crate) struct Uploading<'a> {
    /// Told everything.
    pub(crate) inner: &'a mut dyn Reporter,
    /// None without a remote.
    pub(crate) upload: Option<&'a Upload>,
}

impl Reporter for Uploading<'_> {
    fn event(&mut self, event: &RunEvent) {
        if let Some(upload) = self.upload
            && let RunEvent::StageFinished { result, .. } | RunEvent::StageCached { result, .. } =
                event
        {
            upload.push(result.key);
        }
        self.inner.event(event);
    }
}

/// The keys of the results that a plan has found.
pub(crate) fn found(plan: &Plan) -> Vec<Digest> {
    let records = plan.nodes.iter().filter_map(|node| node.state.record());
    let distinct: HashSet<Digest> = records.map(|record| record.key).collect();
    distinct.into_iter().collect()
}

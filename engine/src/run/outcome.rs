//! What a running stage's thread is given, what it says, and how it ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dcsft_cache::{Digest, Record, Store};

use super::error::RunError;
use super::executor::Executor;
use super::opened::Opened;
use super::pause::Pause;
use super::prepared::Prepared;
use super::relatives::Families;
use crate::journal::Failure;
use crate::key::{FilesIdentity, KeyPreimage};
use crate::provenance::Program;
use crate::stage::{Event, Kind, Shard};
use crate::study::{Node, NodeId, Reference, Study};

/// What the threads of a run share.
pub(super) struct Shared<'a> {
    pub(super) study: &'a Study,
    pub(super) store: &'a Store,
    pub(super) executor: &'a dyn Executor,
    pub(super) families: Families<'a>,
    /// Inputs that were checked.
    pub(super) opened: Opened<'a>,
    /// Set when the run is interrupted, or cannot go on.
    pub(super) stop: AtomicBool,
    pub(super) pause: &'a Pause,
    pub(super) program: &'a Program,
    pub(super) backoff: Duration,
    /// Trust no time stamp.
    pub(super) paranoid: bool,
    /// The run, for those who wait for it: `dcsft run sweep, run 20250131-120000-1a2b`.
    pub(super) name: String,
}

/// A stage whose key is known, with all that the thread which runs it needs.
pub(super) struct Assignment<'a> {
    pub(super) node: &'a Node,
    pub(super) kind: &'a dyn Kind,
    pub(super) key: Digest,
    pub(super) preimage: Arc<KeyPreimage>,
    /// By input name, each artifact with where it comes from.
    pub(super) inputs: BTreeMap<&'a str, Vec<(&'a Reference, Digest)>>,
    /// How often results had been found damaged when the stage was started.
    pub(super) reopenings: u32,
    /// Asked to run though there is a result.
    pub(super) forced: bool,
    /// The files' identity at planning time.
    pub(super) files: &'a BTreeMap<String, FilesIdentity>,
    pub(super) device: String,
    pub(super) accelerators: Vec<String>,
    pub(super) threads: usize,
    pub(super) log: PathBuf,
    pub(super) step: Step,
}

/// What of a stage a thread has to do.
pub(super) enum Step {
    /// All of it, in one attempt.
    Whole,
    /// What comes before its so many shards.
    Cut(u32),
    /// One of them.
    Shard(Arc<Prepared>, Shard),
    /// What comes after them: the stage itself, which takes what they have.
    Join(Arc<Prepared>),
}

impl Step {
    pub(super) fn shard(&self) -> Option<Shard> {
        match self {
            Self::Shard(_, shard) => Some(*shard),
            _ => None,
        }
    }
}

/// What the thread says while it works.
pub(super) enum Word {
    /// The key is locked and the inputs are sound: the stage starts.
    Started {
        device: String,
        threads: usize,
        log: PathBuf,
    },
    Said(Event),
    Retries {
        attempts: u32,
        message: String,
        delay: Duration,
    },
    Warns(String),
}

/// How it ended.
pub(super) enum Outcome {
    /// The stage ran.
    Done(Arc<Record>),
    /// There is a result that did not have to be computed here.
    Found(Arc<Record>),
    /// It can be computed in so many shards.
    Cut {
        prepared: Arc<Prepared>,
        of: u32,
    },
    /// The shard is computed; in so many seconds, if it had to be.
    ShardDone {
        seconds: f64,
    },
    /// Somebody else has the key's lock.
    Busy {
        holder: Option<String>,
    },
    /// Inputs are damaged: the stages that made them, and what was found.
    Damaged {
        damaged: Vec<(NodeId, String)>,
        /// How often that had happened in this run when the stage was started.
        seen: u32,
    },
    Failed(Failure),
    Interrupted,
    /// The run cannot go on, through no fault of the stage's.
    Broken(RunError),
}

//! Where a stage of the run stands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dcsft_cache::Record;

use super::parts::InShards;
use super::work::Work;
use crate::study::NodeId;

/// Where a stage stands.
pub(super) enum State {
    /// So many of the stages that it reads have no result.
    Waiting { missing: usize, forced: bool },
    /// Its key is known, and the cache is being asked for the result.
    Asked(Work),
    /// It has to run; `wait` where another process has its key.
    Ready { work: Work, wait: Option<Wait> },
    /// The stage `leader` has the same key, and is asked for, ready or running.
    Follows { leader: NodeId, forced: bool },
    /// A thread has it.
    Running { work: Work, wait: Option<Wait> },
    /// It is computed shard by shard.
    InShards(Box<InShards>),
    /// It has its result, by an execution of this run or without.
    Done { record: Arc<Record>, executed: bool },
    /// It failed for good.
    Failed,
    /// It does not run, since another one failed.
    Skipped,
    /// It was stopped; the next run resumes it.
    Interrupted,
}

/// Waiting for nothing.
impl Default for State {
    fn default() -> Self {
        Self::Waiting {
            missing: 0,
            forced: false,
        }
    }
}

impl State {
    /// The key in flight of a stage that no other one leads.
    pub(super) fn work(&self) -> Option<&Work> {
        match self {
            Self::InShards(shards) => Some(&shards.work),
            Self::Asked(work) | Self::Ready { work, .. } | Self::Running { work, .. } => Some(work),
            _ => None,
        }
    }

    /// As [`State::work`], to add a follower.
    pub(super) fn work_mut(&mut self) -> Option<&mut Work> {
        match self {
            Self::InShards(shards) => Some(&mut shards.work),
            Self::Asked(work) | Self::Ready { work, .. } | Self::Running { work, .. } => Some(work),
            _ => None,
        }
    }

    /// As [`State::work`], of a stage that goes on to another state.
    pub(super) fn into_work(self) -> Option<Work> {
        match self {
            Self::InShards(shards) => Some(shards.work),
            Self::Asked(work) | Self::Ready { work, .. } | Self::Running { work, .. } => Some(work),
            _ => None,
        }
    }

    pub(super) fn record(&self) -> Option<&Arc<Record>> {
        match self {
            Self::Done { record, .. } => Some(record),
            _ => None,
        }
    }
}

/// A stage of the run.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) damage: Damage,
}

/// What was found of a stage's results in this run.
#[derive(Clone, Copy, Default)]
pub(super) struct Damage {
    /// How often one was damaged.
    pub(super) times: u32,
    /// How many results of all stages had been found damaged when this one's was the last time.
    pub(super) at: u32,
}

/// A stage that waits for another process.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    since: Instant,
    said: Option<Instant>,
    pause: Duration,
}

impl Wait {
    /// First and longest pause between two looks at a lock.
    const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
    /// How often it is said again.
    const SAY: Duration = Duration::from_secs(60);

    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            said: None,
            pause: Self::PAUSES.0,
        }
    }

    /// When to look again.
    pub(super) fn next(&mut self) -> Instant {
        let pause = self.pause;
        self.pause = (pause * 2).min(Self::PAUSES.1);
        Instant::now() + pause
    }

    /// Whether it is time to say so, and how many seconds it has waited.
    pub(super) fn is_to_be_said(&mut self) -> Option<f64> {
        if self.said.is_some_and(|said| said.elapsed() < Self::SAY) {
            return None;
        }
        self.said = Some(Instant::now());
        Some(self.since.elapsed().as_secs_f64())
    }
}

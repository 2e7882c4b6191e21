//! Where the shards of a stage stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::work::Work;
use crate::run::outcome::Step;
use crate::run::prepared::Prepared;
use crate::stage::{Progress, Shard};

/// Where the shards of a stage stand.
pub(super) struct InShards {
    pub(super) work: Work,
    /// The key's lock, and the inputs.
    prepared: Arc<Prepared>,
    of: u32,
    /// How many have started; in their order.
    started: u32,
    unfinished: BTreeSet<u32>,
    /// How far each was when it said so last: units done of those of the whole stage.
    progress: BTreeMap<u32, Progress>,
}

impl InShards {
    pub(super) fn new(work: Work, prepared: Arc<Prepared>, of: u32) -> Self {
        Self {
            work,
            prepared,
            of,
            started: 0,
            unfinished: (1..=of).collect(),
            progress: BTreeMap::new(),
        }
    }

    /// Whether a shard has still to start, or what comes after them.
    pub(super) fn has_turn(&self) -> bool {
        self.started < self.of || self.unfinished.is_empty()
    }

    /// What is next: a shard, or the stage itself once all are done.
    pub(super) fn next(&mut self) -> Step {
        let prepared = Arc::clone(&self.prepared);
        if self.unfinished.is_empty() {
            return Step::Join(prepared);
        }
        self.started += 1;
        let (index, of) = (self.started, self.of);
        Step::Shard(prepared, Shard { index, of })
    }

    /// A shard is done. Whether all are.
    pub(super) fn finish(&mut self, shard: Shard) -> bool {
        self.unfinished.remove(&shard.index);
        self.unfinished.is_empty()
    }

    /// How far the stage is, after a word of one shard.
    pub(super) fn progress(&mut self, shard: Shard, progress: Progress) -> Progress {
        self.progress.insert(shard.index, progress.clone());
        let is_done = |index: &u32| !self.unfinished.contains(index);
        // What an earlier run has computed says nothing any more.
        let silent =
            (1..=self.of).filter(|index| is_done(index) && !self.progress.contains_key(index));
        let silent = silent.count() as u64 * progress.total / u64::from(self.of);
        let done: u64 = self.progress.values().map(|said| said.done).sum();
        let working = self.progress.iter().filter(|(index, _)| !is_done(index));
        let rates = working.filter_map(|(_, said)| said.rate);
        let rate = rates.reduce(|sum, rate| sum + rate);
        Progress {
            done: (done + silent).min(progress.total),
            rate,
            ..progress
        }
    }
}

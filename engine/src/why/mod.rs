//! Why a stage runs, or does not: its key's preimage against the one of the run that it is natural to compare with.
//!
//! That is the latest run of the same spec in which the same stage had a result. Where there is none, the record of
//! the same kind with the fewest differences is named, since it is what the reader thinks of as "but I ran that".

mod change;

use std::collections::{BTreeMap, HashMap};

use dcsft_cache::{Digest, Record, Store, StoreError};
use serde::Serialize;

pub use change::{Change, changes};

use crate::journal;
use crate::journal::RunEvent;
use crate::key::{KeyPreimage, Keys, Sketch};
use crate::plan::{NodeState, Plan};
use crate::record::Execution;
use crate::stage::Registry;
use crate::study::{Node, NodeId, Study};

/// How many runs of a spec are looked at for the latest result of a stage.
const RUNS_LOOKED_AT: usize = 20;

/// A result that a stage is compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The stage's title then.
    pub stage: String,
    /// Its key.
    pub key: Digest,
    /// What is different now.
    pub changes: Vec<Change>,
}

/// Why a stage runs, or does not.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Its result is in the cache.
    Cached {
        /// Seconds that it took.
        seconds: f64,
        /// When it was computed, in seconds since 1970.
        created_unix: u64,
    },
    /// It is in the cache and runs because the user asked for it.
    Forced,
    /// It never had a result in this spec.
    NeverRan {
        /// The nearest result of the same kind.
        nearest: Option<Comparison>,
    },
    /// It had a result under another key.
    Changed(Comparison),
    /// It had a result under this very key, which the cache no longer has: removed, or found damaged.
    Lost,
    /// It failed under this very key.
    Failed {
        /// Why.
        message: String,
    },
    /// Its key depends on results that do not exist yet.
    Waits {
        /// The stages it waits for.
        on: Vec<String>,
        /// What is different already, against its latest result.
        known: Option<Comparison>,
    },
}

/// Why one stage runs, or does not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The stage's title.
    pub stage: String,
    /// Its key, where it is known.
    pub key: Option<Digest>,
    /// Where it stands in the spec: `file:line:column`.
    pub place: String,
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
}

/// Explains the stages of one plan. What it reads, it reads once.
pub struct Explainer<'a> {
    study: &'a Study,
    keys: Keys<'a>,
    plan: &'a Plan,
    store: &'a Store,
    /// The latest result or failure of each title in earlier runs; read when first needed.
    history: Option<BTreeMap<String, Earlier>>,
    /// All records, by kind; read when first needed.
    records: Option<HashMap<String, Vec<(Record, KeyPreimage)>>>,
}

#[derive(Clone)]
enum Earlier {
    Result(Digest),
    Failure(Digest, String),
}

impl<'a> Explainer<'a> {
    /// Reads nothing yet.
    pub fn new(study: &'a Study, registry: &'a Registry, plan: &'a Plan, store: &'a Store) -> Self {
        Self {
            study,
            keys: Keys::new(study, registry, plan.options.arithmetic(registry)),
            plan,
            store,
            history: None,
            records: None,
        }
    }

    /// The latest result or failure of a stage in earlier runs of the spec.
    fn earlier(&mut self, title: &str) -> Option<&Earlier> {
        let (study, store) = (self.study, self.store);
        let history = self
            .history
            .get_or_insert_with(|| read_history(study, store));
        history.get(title)
    }

    /// Why `id` runs, or does not.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn explain(&mut self, id: NodeId) -> Result<Explanation, StoreError> {
        self.explain_with(id, true)
    }

    /// The same without the search through the whole cache for the nearest result of a stage that never ran: for
    /// lists of thousands of stages.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn explain_briefly(&mut self, id: NodeId) -> Result<Explanation, StoreError> {
        self.explain_with(id, false)
    }

    fn explain_with(&mut self, id: NodeId, search: bool) -> Result<Explanation, StoreError> {
        let node = &self.study.nodes[id.0];
        let plan = self.plan;
        let reason = match &plan.node(id).state {
            NodeState::Cached { record, .. } => Reason::Cached {
                seconds: Execution::of(record).seconds,
                created_unix: record.created_unix,
            },
            NodeState::ToRun { forced: true, .. } => Reason::Forced,
            NodeState::ToRun { key, preimage, .. } => {
                self.missing(node, key, &preimage.sketch(), search)?
            }
            NodeState::Waits { on } => {
                let on = on.iter().map(|id| self.study.nodes[id.0].title()).collect();
                Reason::Waits {
                    on,
                    known: self.known_changes(node)?,
                }
            }
        };
        Ok(Explanation {
            stage: node.title(),
            key: plan.node(id).state.key(),
            place: self.study.place_text(&node.place),
            reason,
        })
    }

    fn missing(
        &mut self,
        node: &Node,
        key: &Digest,
        new: &Sketch,
        search: bool,
    ) -> Result<Reason, StoreError> {
        let title = node.title();
        match self.earlier(&title).cloned() {
            Some(Earlier::Failure(failed, message)) if failed == *key => {
                return Ok(Reason::Failed { message });
            }
            Some(Earlier::Result(had)) if had == *key => return Ok(Reason::Lost),
            Some(Earlier::Result(had)) => {
                if let Some(old) = self
                    .store
                    .lookup(&had)?
                    .and_then(|record| preimage_of(&record))
                {
                    return Ok(Reason::Changed(self.compare(node, title, had, &old, new)));
                }
            }
            _ => {}
        }
        if !search {
            return Ok(Reason::NeverRan { nearest: None });
        }
        Ok(match self.nearest(node, new)? {
            Some(nearest) if nearest.stage == title => Reason::Changed(nearest),
            nearest => Reason::NeverRan { nearest },
        })
    }

    /// What is already known to differ for a stage whose inputs do not exist yet.
    fn known_changes(&mut self, node: &Node) -> Result<Option<Comparison>, StoreError> {
        let Some(Earlier::Result(had)) = self.earlier(&node.title()).cloned() else {
            return Ok(None);
        };
        let Some(old) = self
            .store
            .lookup(&had)?
            .and_then(|record| preimage_of(&record))
        else {
            return Ok(None);
        };
        let planned = self.plan.node(node.id);
        let new = self.keys.sketch(node, &planned.files, |reference| {
            let record = self.plan.node(reference.node).state.record();
            let output = record.and_then(|record| record.outputs.get(&reference.output));
            output.map(|output| output.digest)
        });
        // A plan has the kinds of all its stages.
        let Ok(new) = new else {
            return Ok(None);
        };
        Ok(Some(self.compare(node, node.title(), had, &old, &new)))
    }

    fn compare(
        &self,
        node: &Node,
        stage: String,
        key: Digest,
        old: &KeyPreimage,
        new: &Sketch,
    ) -> Comparison {
        Comparison {
            stage,
            key,
            changes: changes(self.study, node, old, new),
        }
    }

    /// The record of the same kind with the fewest differences; of several the latest.
    fn nearest(&mut self, node: &Node, new: &Sketch) -> Result<Option<Comparison>, StoreError> {
        if self.records.is_none() {
            let mut by_kind: HashMap<String, Vec<_>> = HashMap::new();
            for record in self.store.records()? {
                let record = record?;
                if let Some(preimage) = preimage_of(&record) {
                    by_kind
                        .entry(preimage.kind.clone())
                        .or_default()
                        .push((record, preimage));
                }
            }
            self.records = Some(by_kind);
        }
        let same_kind = self
            .records
            .as_ref()
            .and_then(|records| records.get(&node.kind));
        let compared = same_kind.into_iter().flatten().map(|(record, old)| {
            let comparison = self.compare(node, record.label.clone(), record.key, old, new);
            (
                (
                    comparison.changes.len(),
                    std::cmp::Reverse(record.created_unix),
                    record.key,
                ),
                comparison,
            )
        });
        Ok(compared
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, comparison)| comparison))
    }
}

/// Goes back through the runs of the spec until every stage has been seen: those with the same overrides first, whose
/// results are what this study had; then those with others.
fn read_history(study: &Study, store: &Store) -> BTreeMap<String, Earlier> {
    let mut history = BTreeMap::new();
    for run in journal::history(study, store).take(RUNS_LOOKED_AT) {
        for (title, earlier) in last_words(run.events().map(|entry| entry.event)) {
            history.entry(title).or_insert(earlier);
        }
        let seen = |node: &Node| history.contains_key(&node.title());
        if study.nodes.iter().all(seen) {
            break;
        }
    }
    history
}

fn last_words(events: impl Iterator<Item = RunEvent>) -> BTreeMap<String, Earlier> {
    let mut keys = BTreeMap::new();
    let mut last = BTreeMap::new();
    for event in events {
        match event {
            RunEvent::StageStarted { stage, key, .. } => {
                keys.insert(stage, key);
            }
            RunEvent::StageFailed { stage, failure } => {
                if let Some(key) = keys.get(&stage) {
                    last.insert(stage, Earlier::Failure(*key, failure.message));
                }
            }
            RunEvent::StageCached { stage, result } | RunEvent::StageFinished { stage, result } => {
                last.insert(stage, Earlier::Result(result.key));
            }
            _ => {}
        }
    }
    last
}

/// The preimage that a record keeps; none if another version of the engine wrote it in another shape.
pub fn preimage_of(record: &Record) -> Option<KeyPreimage> {
    record.explain.parse().ok()
}

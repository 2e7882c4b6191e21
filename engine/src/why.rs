//! Why a stage runs, or does not: its key's preimage against the one of the run that it is natural to compare with.
//!
//! That is the latest run of the same spec in which the same stage had a result. Where there is none, the record of
//! the same kind with the fewest differences is named, since it is what the reader thinks of as "but I ran that".

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use dcsft_cache::{Digest, Record, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal;
use crate::key::{self, KeyPreimage};
use crate::kind::{Label, Registry};
use crate::plan::{NodeState, Plan};
use crate::run::RunEvent;
use crate::study::{Node, NodeId, Study};

/// How many runs of a spec are looked at for the latest result of a stage.
const RUNS_LOOKED_AT: usize = 20;

/// Stands for the content of an input that does not exist yet.
const UNKNOWN: Digest = Digest::from_bytes([0; 32]);

/// One difference between two keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// The stage uses another kind.
    KindChanged {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// The kind computes something else since another version of it.
    VersionChanged {
        /// The kind.
        kind: String,
        /// Before.
        old: u32,
        /// Now.
        new: u32,
    },
    /// A param has another value.
    ParamChanged {
        /// The field of `with:`, dots between the parts.
        path: String,
        /// Before; none if it was not there.
        old: Option<Value>,
        /// Now; none if it is not there.
        new: Option<Value>,
        /// Where it stands in the spec: `file:line:column`.
        place: Option<String>,
    },
    /// Files of the user's have other content.
    FileChanged {
        /// The field of `with:`.
        field: String,
        /// Before.
        old: Option<Digest>,
        /// Now.
        new: Option<Digest>,
        /// Where the field stands in the spec.
        place: Option<String>,
    },
    /// Another stage's output has other content.
    InputChanged {
        /// The input's name.
        input: String,
        /// The stage and output it now comes from.
        upstream: Option<String>,
        /// Before.
        old: Option<Digest>,
        /// Now.
        new: Option<Digest>,
    },
    /// An input comes from elsewhere in the spec, and the kind writes down where.
    LabelChanged {
        /// The input's name.
        input: String,
        /// Before.
        old: Option<Label>,
        /// Now.
        new: Option<Label>,
    },
    /// Another backend or element type.
    NumericsChanged {
        /// Before.
        old: Option<key::Numerics>,
        /// Now.
        new: Option<key::Numerics>,
    },
    /// Keys themselves are made in another way since another version of the engine.
    FormatChanged {
        /// Before.
        old: u32,
        /// Now.
        new: u32,
    },
}

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
    registry: &'a Registry,
    plan: &'a Plan,
    store: &'a Store,
    /// The latest result or failure of each title in earlier runs.
    history: BTreeMap<String, Earlier>,
    /// All records, by kind; read when first needed.
    records: Option<HashMap<String, Vec<(Record, KeyPreimage)>>>,
}

#[derive(Clone)]
enum Earlier {
    Result(Digest),
    Failure(Digest, String),
}

impl<'a> Explainer<'a> {
    /// Reads the journals of the spec's earlier runs.
    pub fn new(study: &'a Study, registry: &'a Registry, plan: &'a Plan, store: &'a Store) -> Self {
        let mut history = BTreeMap::new();
        for run in journal::runs(&store.runs_dir(), Some(&study.name)).take(RUNS_LOOKED_AT) {
            for (title, earlier) in earlier(&run.events) {
                history.entry(title).or_insert(earlier);
            }
        }
        Self { study, registry, plan, store, history, records: None }
    }

    /// Why `id` runs, or does not.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn explain(&mut self, id: NodeId) -> Result<Explanation, StoreError> {
        let node = &self.study.nodes[id.0];
        let plan = self.plan;
        let reason = match &plan.node(id).state {
            NodeState::Cached { record, .. } => {
                Reason::Cached { seconds: record.seconds(), created_unix: record.created_unix }
            }
            NodeState::ToRun { forced: true, .. } => Reason::Forced,
            NodeState::ToRun { key, preimage, .. } => self.missing(node, key, preimage)?,
            NodeState::Waits { on } => {
                let on = on.iter().map(|id| self.study.nodes[id.0].title()).collect();
                Reason::Waits { on, known: self.known_changes(node)? }
            }
        };
        Ok(Explanation {
            stage: node.title(),
            key: plan.node(id).state.key(),
            place: self.study.place_text(&node.place),
            reason,
        })
    }

    fn missing(&mut self, node: &Node, key: &Digest, new: &KeyPreimage) -> Result<Reason, StoreError> {
        let title = node.title();
        match self.history.get(&title).cloned() {
            Some(Earlier::Failure(failed, message)) if failed == *key => return Ok(Reason::Failed { message }),
            Some(Earlier::Result(had)) if had == *key => return Ok(Reason::Lost),
            Some(Earlier::Result(had)) => {
                if let Some(old) = self.store.lookup(&had)?.and_then(|record| preimage_of(&record)) {
                    return Ok(Reason::Changed(self.compare(node, title, had, &old, new)));
                }
            }
            _ => {}
        }
        Ok(match self.nearest(node, new)? {
            Some(nearest) if nearest.stage == title => Reason::Changed(nearest),
            nearest => Reason::NeverRan { nearest },
        })
    }

    /// What is already known to differ for a stage whose inputs do not exist yet.
    fn known_changes(&self, node: &Node) -> Result<Option<Comparison>, StoreError> {
        let Some(Earlier::Result(had)) = self.history.get(&node.title()) else { return Ok(None) };
        let Some(old) = self.store.lookup(had)?.and_then(|record| preimage_of(&record)) else { return Ok(None) };
        let Some(kind) = self.registry.get(&node.kind) else { return Ok(None) };
        let planned = self.plan.node(node.id);
        let new = key::preimage(self.study, node, kind, &self.plan.options.device, &planned.files, |reference| {
            let record = self.plan.node(reference.node).state.record();
            let output = record.and_then(|record| record.outputs.get(&reference.output));
            Some(output.map_or(UNKNOWN, |output| output.digest))
        });
        Ok(new.map(|new| self.compare(node, node.title(), *had, &old, &new)))
    }

    fn compare(&self, node: &Node, stage: String, key: Digest, old: &KeyPreimage, new: &KeyPreimage) -> Comparison {
        Comparison { stage, key, changes: changes(self.study, node, old, new) }
    }

    /// The record of the same kind with the fewest differences; of several the latest.
    fn nearest(&mut self, node: &Node, new: &KeyPreimage) -> Result<Option<Comparison>, StoreError> {
        if self.records.is_none() {
            let mut by_kind: HashMap<String, Vec<_>> = HashMap::new();
            for record in self.store.records()? {
                let record = record?;
                if let Some(preimage) = preimage_of(&record) {
                    by_kind.entry(preimage.kind.clone()).or_default().push((record, preimage));
                }
            }
            self.records = Some(by_kind);
        }
        let same_kind = self.records.as_ref().and_then(|records| records.get(&node.kind));
        let compared = same_kind.into_iter().flatten().map(|(record, old)| {
            let comparison = self.compare(node, record.label.clone(), record.key, old, new);
            ((comparison.changes.len(), std::cmp::Reverse(record.created_unix), record.key), comparison)
        });
        Ok(compared.min_by_key(|(rank, _)| *rank).map(|(_, comparison)| comparison))
    }
}

fn earlier(events: &[RunEvent]) -> BTreeMap<String, Earlier> {
    let mut keys = BTreeMap::new();
    let mut last = BTreeMap::new();
    for event in events {
        match event {
            RunEvent::StageStarted { stage, key, .. } => {
                keys.insert(stage, *key);
            }
            RunEvent::StageFailed { stage, failure } => {
                if let Some(key) = keys.get(stage) {
                    last.insert(stage.clone(), Earlier::Failure(*key, failure.message.clone()));
                }
            }
            RunEvent::StageCached { stage, result } | RunEvent::StageFinished { stage, result } => {
                last.insert(stage.clone(), Earlier::Result(result.key));
            }
            _ => {}
        }
    }
    last
}

/// The preimage that a record keeps; none if another version of the engine wrote it in another shape.
pub fn preimage_of(record: &Record) -> Option<KeyPreimage> {
    KeyPreimage::deserialize(&record.explain).ok()
}

/// What differs between two preimages of `node`'s key, most telling first.
pub fn changes(study: &Study, node: &Node, old: &KeyPreimage, new: &KeyPreimage) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.kind != new.kind {
        changes.push(Change::KindChanged { old: old.kind.clone(), new: new.kind.clone() });
    }
    if old.format != new.format {
        changes.push(Change::FormatChanged { old: old.format, new: new.format });
    }
    if old.kind == new.kind && old.version != new.version {
        changes.push(Change::VersionChanged { kind: new.kind.clone(), old: old.version, new: new.version });
    }
    let mut path = Vec::new();
    params(study, node, &mut path, Some(&old.params), Some(&new.params), &mut changes);
    for field in union(old.files.keys(), new.files.keys()) {
        let (old, new) = (old.files.get(field), new.files.get(field));
        if old != new {
            let (old, new) = (old.map(|files| files.digest), new.map(|files| files.digest));
            changes.push(Change::FileChanged { field: field.clone(), old, new, place: place(study, node, field) });
        }
    }
    for input in union(old.inputs.keys(), new.inputs.keys()) {
        inputs(study, node, input, old, new, &mut changes);
    }
    if old.numerics != new.numerics {
        changes.push(Change::NumericsChanged { old: old.numerics.clone(), new: new.numerics.clone() });
    }
    changes
}

fn params(
    study: &Study,
    node: &Node,
    path: &mut Vec<String>,
    old: Option<&Value>,
    new: Option<&Value>,
    changes: &mut Vec<Change>,
) {
    if old == new {
        return;
    }
    let mut inside = |part: String, old: Option<&Value>, new: Option<&Value>| {
        path.push(part);
        params(study, node, path, old, new, changes);
        path.pop();
    };
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for name in union(old.keys(), new.keys()) {
                inside(name.clone(), old.get(name), new.get(name));
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                inside(index.to_string(), Some(old), Some(new));
            }
        }
        _ => {
            let path = path.join(".");
            let place = place(study, node, &path);
            changes.push(Change::ParamChanged { path, old: old.cloned(), new: new.cloned(), place });
        }
    }
}

fn inputs(study: &Study, node: &Node, input: &str, old: &KeyPreimage, new: &KeyPreimage, changes: &mut Vec<Change>) {
    let (old, new) = (old.inputs.get(input), new.inputs.get(input));
    let references = node.inputs.iter().find(|(name, _)| name == input).map(|(_, references)| references);
    let count = old.map_or(0, Vec::len).max(new.map_or(0, Vec::len));
    for index in 0..count {
        let old = old.and_then(|list| list.get(index));
        let new = new.and_then(|list| list.get(index));
        let (old_digest, new_digest) = (old.map(|input| input.digest), new.map(|input| input.digest));
        if new_digest != Some(UNKNOWN) && old_digest != new_digest {
            let upstream = references.and_then(|references| references.get(index)).map(|reference| {
                format!("{}.{}", study.nodes[reference.node.0].title(), reference.output)
            });
            changes.push(Change::InputChanged { input: input.to_owned(), upstream, old: old_digest, new: new_digest });
        }
        let (old, new) = (old.and_then(|input| input.label.clone()), new.and_then(|input| input.label.clone()));
        if old != new {
            changes.push(Change::LabelChanged { input: input.to_owned(), old, new });
        }
    }
}

/// Where a field of `with:`, or else the part of it that is written in the spec, stands.
fn place(study: &Study, node: &Node, path: &str) -> Option<String> {
    let mut path = path;
    loop {
        if let Some(place) = node.places.get(path) {
            return Some(study.place_text(place));
        }
        path = path.rsplit_once('.')?.0;
    }
}

fn union<'a>(a: impl Iterator<Item = &'a String>, b: impl Iterator<Item = &'a String>) -> BTreeSet<&'a String> {
    a.chain(b).collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KindChanged { old, new } => write!(f, "uses `{new}` instead of `{old}`"),
            Self::VersionChanged { kind, old, new } => {
                write!(f, "`{kind}` has version {new} instead of {old}: it computes something else since then")
            }
            Self::ParamChanged { path, old, new, place } => {
                write!(f, "{path}: {} -> {}", shown(old.as_ref()), shown(new.as_ref()))?;
                at(f, place.as_deref())
            }
            Self::FileChanged { field, old, new, place } => {
                write!(f, "the content behind {field} changed: {} -> {}", short(*old), short(*new))?;
                at(f, place.as_deref())
            }
            Self::InputChanged { input, upstream, old, new } => {
                write!(f, "input {input}")?;
                if let Some(upstream) = upstream {
                    write!(f, " ({upstream})")?;
                }
                write!(f, " has other content: {} -> {}", short(*old), short(*new))
            }
            Self::LabelChanged { input, old, new } => {
                write!(f, "input {input} comes from {} instead of {}", source(new.as_ref()), source(old.as_ref()))
            }
            Self::NumericsChanged { old, new } => {
                write!(f, "computed with {} instead of {}", arithmetic(new.as_ref()), arithmetic(old.as_ref()))
            }
            Self::FormatChanged { old, new } => write!(f, "keys have format {new} instead of {old}"),
        }
    }
}

fn at(f: &mut fmt::Formatter<'_>, place: Option<&str>) -> fmt::Result {
    place.map_or(Ok(()), |place| write!(f, " ({place})"))
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

fn short(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "nothing".to_owned(), |digest| digest.short())
}

fn source(label: Option<&Label>) -> String {
    label.map_or_else(|| "nowhere".to_owned(), |label| format!("{}.{} (arm {})", label.stage, label.output, label.arm))
}

fn arithmetic(numerics: Option<&key::Numerics>) -> String {
    numerics.map_or_else(|| "none".to_owned(), |numerics| format!("{}/{}", numerics.backend, numerics.dtype))
}

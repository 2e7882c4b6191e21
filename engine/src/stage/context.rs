//! What a running stage is given.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::cost::Cost;
use super::error::StageError;
use super::input::{Input, Relative};
use super::protocol::{Event, Progress};
use super::shard::Shard;
use super::summary::{LeftOut, Summary, SummaryResult};

/// Inputs, outputs, scratch space, device and progress of one running stage.
pub struct StageContext {
    inputs: BTreeMap<String, Vec<Input>>,
    outputs: PathBuf,
    state: PathBuf,
    device: String,
    accelerators: Vec<String>,
    threads: usize,
    interrupted: Arc<AtomicBool>,
    emit: Box<dyn FnMut(Event) + Send>,
    summary: Summary,
    relatives: Vec<Relative>,
    saved: Cost,
    shard: Option<Shard>,
    parts: Vec<PathBuf>,
}

/// Everything [`StageContext::new`] needs.
pub struct ContextParts {
    /// Artifacts by input name.
    pub inputs: BTreeMap<String, Vec<Input>>,
    /// Folder in which each output is a sub-folder.
    pub outputs: PathBuf,
    /// Scratch folder that survives a kill.
    pub state: PathBuf,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// The accelerators that are its own, `device` the first; none where a batch system hands them out.
    pub accelerators: Vec<String>,
    /// Threads the stage may use. Never changes a byte of what it writes.
    pub threads: usize,
    /// Set when the run is being interrupted.
    pub interrupted: Arc<AtomicBool>,
    /// Takes progress and log events.
    pub emit: Box<dyn FnMut(Event) + Send>,
    /// Finished results of the stage's family.
    pub relatives: Vec<Relative>,
    /// The part of its samples that it is to compute; none for all.
    pub shard: Option<Shard>,
    /// State folders of other attempts at the same result, whole or in shards.
    pub parts: Vec<PathBuf>,
}

impl StageContext {
    /// A context; tests of stages build one too.
    pub fn new(parts: ContextParts) -> Self {
        let ContextParts {
            inputs,
            outputs,
            state,
            device,
            accelerators,
            threads,
            interrupted,
            emit,
            relatives,
            shard,
            parts,
        } = parts;
        Self {
            inputs,
            outputs,
            state,
            device,
            accelerators,
            threads,
            interrupted,
            emit,
            summary: Summary::default(),
            relatives,
            saved: Cost::default(),
            shard,
            parts,
        }
    }

    /// The artifact at an input that takes exactly one.
    ///
    /// # Errors
    /// If it is not there, which the plan has ruled out.
    pub fn input(&self, name: &str) -> Result<&Input, StageError> {
        self.optional(name)
            .ok_or_else(|| StageError::failed(format!("the input `{name}` is missing")))
    }

    /// The artifact at an input that takes one or none.
    pub fn optional(&self, name: &str) -> Option<&Input> {
        self.inputs(name).first()
    }

    /// The artifacts at an input, in the order of the spec.
    pub fn inputs(&self, name: &str) -> &[Input] {
        self.inputs.get(name).map_or(&[], Vec::as_slice)
    }

    /// All inputs by name.
    pub fn all_inputs(&self) -> &BTreeMap<String, Vec<Input>> {
        &self.inputs
    }

    /// Leaves out the artifacts of all inputs that `keep` does not want.
    pub fn retain_inputs(&mut self, mut keep: impl FnMut(&Input) -> bool) {
        for artifacts in self.inputs.values_mut() {
            artifacts.retain(&mut keep);
        }
    }

    /// The folder to write output `name` into; created.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn output(&self, name: &str) -> Result<PathBuf, StageError> {
        let dir = self.outputs.join(name);
        std::fs::create_dir_all(&dir).map_err(StageError::io(&dir))?;
        Ok(dir)
    }

    /// The folder in which each output is a folder.
    pub fn outputs(&self) -> &Path {
        &self.outputs
    }

    /// Puts a file of an input into an output without copying it, where the file system can link. What is there already
    /// may be a link to a stored file, so it is never written over.
    ///
    /// # Errors
    /// If it can be neither linked nor copied, or something has the name.
    pub fn link(&self, from: &Path, to: &Path) -> Result<(), StageError> {
        if std::fs::hard_link(from, to).is_ok() {
            return Ok(());
        }
        let mut source = File::open(from).map_err(StageError::io(from))?;
        let mut target = File::create_new(to).map_err(StageError::io(to))?;
        std::io::copy(&mut source, &mut target)
            .map(drop)
            .map_err(StageError::io(to))
    }

    /// Scratch folder that survives a kill: what the stage resumes from. Gone once the stage is done.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// `cpu` or `cuda:N`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The accelerators that are the stage's own, its device the first; none where a batch system hands them out.
    pub fn accelerators(&self) -> &[String] {
        &self.accelerators
    }

    /// Threads the stage may use.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The run is being interrupted: save state and return [`StageError::Interrupted`].
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Reports progress.
    pub fn progress(&mut self, progress: Progress) {
        (self.emit)(Event::Progress(progress));
    }

    /// A line for the stage's log.
    pub fn log(&mut self, message: impl Into<String>) {
        (self.emit)(Event::Log {
            message: message.into(),
        });
    }

    /// Says something that is not as one may expect it: shown in every run, and kept in the summary. Deterministic.
    pub fn warn(&mut self, message: impl Into<String>) {
        let message = message.into();
        self.summary.warnings.push(message.clone());
        (self.emit)(Event::Warning { message });
    }

    /// Says what the stage left out of its samples: shown in every run where it is anything, and kept in the summary.
    pub fn leave_out(&mut self, left_out: LeftOut) {
        if let Some(message) = left_out.sentence() {
            (self.emit)(Event::Warning { message });
        }
        self.summary.left_out = Some(left_out);
    }

    /// Says that the stage was skipped and why: shown in every run, and the whole summary.
    pub fn skip(&mut self, because: impl Into<String>) {
        let because = because.into();
        (self.emit)(Event::Warning {
            message: format!("skipped: {because}"),
        });
        self.summary.facts.clear();
        self.summary.results = None;
        self.summary.skipped = Some(because);
    }

    /// The stage's result in short (counts, losses): deterministic, kept in the cache's record. An object.
    pub fn summarise(&mut self, facts: Value) {
        if let Value::Object(facts) = facts {
            self.summary.facts = facts;
        }
    }

    /// The metrics of an evaluation: kept in the cache's record, shown in tables.
    pub fn report(&mut self, results: Vec<SummaryResult>) {
        self.summary.results = Some(results);
    }

    /// Finished results that have parts in common with this one ([`crate::stage::Stage::family`]), newest first.
    pub fn relatives(&self) -> &[Relative] {
        &self.relatives
    }

    /// The part of its samples that a [shardable](crate::stage::KindDecl::shardable) stage is to compute and to keep in its
    /// state folder; none for all of it and the outputs.
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// State folders of other attempts at the same result: of its shards, however it was cut, and of the whole. Some
    /// may be gone by now, cut short by a kill, or being written to.
    pub fn parts(&self) -> &[PathBuf] {
        &self.parts
    }

    /// Says how much work relatives have spared the stage. It counts as part of what the result costs.
    pub fn save(&mut self, cost: Cost) {
        self.saved = self.saved + cost;
    }

    /// Work that relatives have spared the stage.
    pub fn saved(&self) -> Cost {
        self.saved
    }

    /// Ends the stage: what it said of itself.
    pub fn into_summary(self) -> Summary {
        self.summary
    }
}

//! Where results come from: which run made them, by which program and where, and which runs used them. Runs are known as
//! far as their journals are kept.

use std::collections::BTreeMap;

use dcsft_cache::{Digest, Record, Store};
use dcsft_engine::journal::{self, RunEvent};
use dcsft_engine::provenance::Program;
use dcsft_engine::record::Execution;
use serde::Serialize;

/// Where a result comes from.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Origin {
    /// Its key.
    pub(crate) key: Digest,
    /// `cpu`, `cuda:0`.
    pub(crate) device: Option<String>,
    /// The host it was computed on.
    pub(crate) host: Option<String>,
    /// The program that computed it.
    pub(crate) dcsft: Option<Program>,
    /// The run that computed it; none where its journal is gone, or where the result came from elsewhere.
    pub(crate) made_by: Option<String>,
    /// All runs that found or computed it, latest first.
    pub(crate) used_by: Vec<String>,
}

impl Origin {
    /// The origin of a record; `runs` are those of its cache.
    pub(crate) fn of(record: &Record, runs: &BTreeMap<Digest, Used>) -> Self {
        let execution = Execution::of(record);
        let used = runs.get(&record.key).cloned().unwrap_or_default();
        Self {
            key: record.key,
            device: execution.device,
            host: execution.machine.and_then(|machine| machine.host),
            dcsft: execution.program,
            made_by: used.made_by,
            used_by: used.by,
        }
    }

    /// Device, host, program and run for a table; `?` for what is not known.
    pub(crate) fn cells(&self) -> [String; 4] {
        let known = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        [
            known(self.device.clone()),
            known(self.host.clone()),
            known(self.dcsft.as_ref().map(ToString::to_string)),
            known(self.made_by.clone()),
        ]
    }
}

/// The runs of one result, latest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    /// The run that computed it; none where its journal is gone, or where the result came from elsewhere.
    pub(crate) made_by: Option<String>,
    /// All runs that found or computed it.
    pub(crate) by: Vec<String>,
}

/// The runs of every result that a journal of this cache names.
pub(crate) fn runs(store: &Store) -> BTreeMap<Digest, Used> {
    let mut all: BTreeMap<Digest, Used> = BTreeMap::new();
    for run in journal::runs(&store.runs_dir()) {
        let id = &run.header.run;
        for entry in run.events() {
            let (key, made) = match entry.event {
                RunEvent::StageFinished { result, .. } => (result.key, true),
                RunEvent::StageCached { result, .. } => (result.key, false),
                _ => continue,
            };
            let used = all.entry(key).or_default();
            if used.by.last() != Some(id) {
                used.by.push(id.clone());
            }
            // A result that was computed again is that of the latest run that did.
            if made && used.made_by.is_none() {
                used.made_by = Some(id.clone());
            }
        }
    }
    all
}

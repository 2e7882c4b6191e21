//! Which runs made and used results, as far as their journals are kept.

use std::collections::BTreeMap;

use dcsft_cache::{Digest, Store};
use dcsft_engine::journal::{self, RunEvent};

/// The runs of one result, latest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    /// The run that computed it; none where its journal is gone, or where the result came from elsewhere.
    pub(crate) made_by: Option<String>,
    /// All runs that found or computed it.
    pub(crate) by: Vec<String>,
}

/// The runs of every result that a journal of this cache names.
pub(crate) fn of(store: &Store) -> BTreeMap<Digest, Used> {
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

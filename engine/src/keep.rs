//! What a collection of garbage must keep for a study: the results that its plan names, and those that the plan cannot
//! name yet.
//!
//! Below a stage without a result keys are unknown, since inputs are in a key by their content. The results that are
//! there may well be found again once the missing one is computed: so every result stays that agrees with a waiting
//! stage in all that its key is made of but the inputs.

use std::collections::{BTreeMap, BTreeSet};

use dcsft_cache::{Digest, Record, Store, StoreError};

use crate::key::{KeyPreimage, Keys};
use crate::plan::{NodeState, Plan, PlanError, PlanOptions};
use crate::stage::{Numerics, Registry};
use crate::study::Study;

/// The results in a store, as far as collections ask for them.
#[derive(Debug, Default)]
pub struct Results {
    /// Keys by what their results have in common with a stage whose inputs are unknown.
    by_own_part: BTreeMap<Digest, Vec<Digest>>,
    numerics: BTreeSet<Numerics>,
}

/// What has to stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The keys.
    pub keys: BTreeSet<Digest>,
    /// How many of them may belong below a stage that has no result.
    pub below: usize,
    /// Those stages, by title.
    pub missing: BTreeSet<String>,
}

impl Results {
    /// Reads the records of a store.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn of(store: &Store) -> Result<Self, StoreError> {
        let mut results = Self::default();
        for record in store.records()? {
            let Record { key, explain, .. } = record?;
            // One that this version does not understand has a key that it never asks for.
            let Ok(preimage) = explain.parse::<KeyPreimage>() else {
                continue;
            };
            results.numerics.extend(preimage.numerics.clone());
            if let Ok(own) = preimage.own_part() {
                results.by_own_part.entry(own).or_default().push(key);
            }
        }
        Ok(results)
    }

    /// What has to stay for a study: whatever device its stages ran on.
    ///
    /// # Errors
    /// If the study cannot be planned.
    pub fn kept(
        &self,
        study: &Study,
        registry: &Registry,
        store: &Store,
    ) -> Result<Kept, PlanError> {
        let mut kept = Kept::default();
        let mut below = BTreeSet::new();
        let here = registry.numerics(&PlanOptions::default().device);
        let mut missing_everywhere: Option<BTreeSet<String>> = None;
        for numerics in self.numerics.iter().chain([&here]) {
            let keys = Keys::new(study, registry, numerics.clone());
            let options = PlanOptions {
                numerics: Some(numerics.clone()),
                ..PlanOptions::default()
            };
            let plan = Plan::new(study, registry, store, options)?;
            let mut missing = BTreeSet::new();
            for (node, planned) in study.nodes.iter().zip(&plan.nodes) {
                kept.keys.extend(planned.state.key());
                match &planned.state {
                    NodeState::Cached { .. } => {}
                    NodeState::ToRun { .. } => drop(missing.insert(node.title())),
                    NodeState::Waits { .. } => {
                        let sketch = keys.sketch(node, &planned.files, |_| None).ok();
                        let own = sketch.and_then(|sketch| sketch.own_part().ok());
                        let alike = own.and_then(|own| self.by_own_part.get(&own));
                        below.extend(alike.into_iter().flatten());
                    }
                }
            }
            // A study that ran on one device has no result on the others, and misses none there.
            missing_everywhere = Some(match missing_everywhere {
                None => missing,
                Some(before) => before.intersection(&missing).cloned().collect(),
            });
        }
        kept.below = below.difference(&kept.keys).count();
        kept.missing = missing_everywhere.unwrap_or_default();
        kept.keys.extend(below);
        Ok(kept)
    }
}

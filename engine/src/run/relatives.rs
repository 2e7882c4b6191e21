//! Relatives: finished results of which a stage may have parts in common.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dcsft_cache::{Digest, Record, Store};
use serde::Deserialize;

use super::opened::Opened;
use crate::key::InputIdentity;
use crate::record::Execution;
use crate::stage::Relative;

/// Reading many results costs more than the best of them do not have already.
const MAX_RELATIVES: usize = 8;

/// The families of a run's stages, each read from the store once.
pub(super) struct Families<'a> {
    store: &'a Store,
    known: Mutex<HashMap<Digest, Arc<Mutex<Vec<Member>>>>>,
}

/// A finished result.
#[derive(Clone)]
struct Member {
    record: Arc<Record>,
    inputs: BTreeMap<String, Vec<Digest>>,
}

/// What of a key's preimage says which inputs a result was made of.
#[derive(Deserialize)]
struct Inputs {
    inputs: BTreeMap<String, Vec<InputIdentity>>,
}

impl Member {
    fn of(record: Arc<Record>) -> Self {
        let inputs = record.explain.parse::<Inputs>();
        Self {
            inputs: inputs.map_or_else(|_| BTreeMap::new(), |read| digests(&read.inputs)),
            record,
        }
    }
}

fn digests(inputs: &BTreeMap<String, Vec<InputIdentity>>) -> BTreeMap<String, Vec<Digest>> {
    let digests = |identities: &Vec<InputIdentity>| {
        let digests = identities.iter().map(|identity| identity.digest);
        digests.collect()
    };
    inputs
        .iter()
        .map(|(name, identities)| (name.clone(), digests(identities)))
        .collect()
}

impl<'a> Families<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            store,
            known: Mutex::default(),
        }
    }

    /// The results of `family` that most likely have parts which a stage with these inputs needs, the likeliest first:
    /// those with the most inputs in common, then those of the same title (the same cell of the axes in an earlier
    /// run), then the latest. Results whose files are not as they were written are left out.
    pub(super) fn relatives(
        &self,
        family: &Digest,
        inputs: &BTreeMap<String, Vec<InputIdentity>>,
        title: &str,
        opened: &Opened<'_>,
    ) -> Vec<Relative> {
        let wanted = digests(inputs);
        let members = self.members(family);
        let ranked = {
            let members = lock(&members);
            let mut ranked: Vec<(Reverse<usize>, bool, Reverse<usize>)> = members
                .iter()
                .enumerate()
                .map(|(age, member)| {
                    let same = |(name, digests): &(&String, &Vec<Digest>)| {
                        wanted.get(*name) == Some(*digests)
                    };
                    let in_common = member.inputs.iter().filter(same).count();
                    (
                        Reverse(in_common),
                        member.record.label != title,
                        Reverse(age),
                    )
                })
                .collect();
            ranked.sort_unstable();
            let records = ranked
                .into_iter()
                .map(|(.., Reverse(index))| &members[index]);
            let records: Vec<Arc<Record>> =
                records.map(|member| Arc::clone(&member.record)).collect();
            records
        };
        ranked
            .iter()
            .filter_map(|record| open(record, opened))
            .take(MAX_RELATIVES)
            .collect()
    }

    /// Makes a new result a member.
    pub(super) fn join(&self, family: &Digest, record: &Arc<Record>) {
        // The result is there; that others do not find it only costs them time.
        let _ = self.store.join_family(family, &record.key);
        let known = lock(&self.known).get(family).cloned();
        if let Some(members) = known {
            lock(&members).push(Member::of(Arc::clone(record)));
        }
    }

    /// The members of a family, the latest last.
    fn members(&self, family: &Digest) -> Arc<Mutex<Vec<Member>>> {
        if let Some(members) = lock(&self.known).get(family) {
            return Arc::clone(members);
        }
        let records = self.store.family(family).unwrap_or_default();
        let members = records.into_iter().rev().map(Arc::new).map(Member::of);
        let members = Arc::new(Mutex::new(members.collect()));
        // Another thread may have read them meanwhile.
        Arc::clone(lock(&self.known).entry(*family).or_insert(members))
    }
}

fn open(record: &Record, opened: &Opened<'_>) -> Option<Relative> {
    let outputs: Option<BTreeMap<_, _>> = record
        .outputs
        .iter()
        .map(|(name, output)| Some((name.clone(), opened.open(&output.digest).ok()?)))
        .collect();
    Some(Relative {
        cost: Execution::of(record).cost(),
        outputs: outputs?,
        label: record.label.clone(),
    })
}

/// Whoever panicked while holding one of these locks has left what it guards whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What was computed from a damaged artifact: its records are void, however whole they are themselves.
//!
//! A record says what its key was made of, and inputs are in a key by their digests. So whoever read an artifact names
//! it. What is below such a reader need not go: it read the bytes that its own key names, and was right about these.
//! But results of one family take parts over from each other, so the younger members of a reader's family go too.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::listing::list_digests;
use crate::quarantine::{self, State};
use crate::store::Loaded;
use crate::{Digest, Store, StoreError, family};

/// Clocks of hosts that share a store may differ by so many seconds.
const CLOCKS_DIFFER: u64 = 60;

/// A damaged artifact.
pub(crate) struct Suspect {
    pub(crate) artifact: Digest,
    /// When it was last known to be sound, in seconds since 1970. What was recorded before that cannot have seen the
    /// damage.
    pub(crate) sound_since: u64,
}

/// A record that was whole, and void nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Voided {
    /// Its key.
    pub key: Digest,
    /// Its name for people.
    pub label: String,
    /// Why, as in "computed from artifact 0123456789ab, which is damaged".
    pub reason: String,
}

/// Moves the records of all that may have been computed from damaged artifacts to the quarantine.
pub(crate) fn void_readers(store: &Store, suspects: &[Suspect]) -> Result<Vec<Voided>, StoreError> {
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let suspects: BTreeMap<Digest, u64> = suspects
        .iter()
        .map(|suspect| (suspect.artifact, suspect.sound_since))
        .collect();
    let mut created = BTreeMap::new();
    let mut voided = Vec::new();
    for key in list_digests(&store.layout.records(), ".json")? {
        // One that is damaged itself is voided by whoever asks for it.
        let State::Good(Loaded { record, .. }) = store.load_record(&key)? else {
            continue;
        };
        let (label, at) = (record.label, record.created_unix);
        let read = record.explain.digests().find(|digest| {
            suspects
                .get(digest)
                .is_some_and(|sound_since| at.saturating_add(CLOCKS_DIFFER) >= *sound_since)
        });
        if let Some(artifact) = read {
            let reason = format!(
                "computed from artifact {}, which is damaged, after that was last known to be sound",
                artifact.short()
            );
            let label = label.clone();
            voided.push(Voided { key, label, reason });
        }
        created.insert(key, (label, at));
    }
    let relatives = relatives(store, &voided, &created)?;
    voided.extend(relatives);
    for one in &voided {
        let path = store.layout.record(&one.key);
        quarantine::put(&store.layout, "record", &path, &one.reason);
    }
    tell(&voided);
    store.voided().extend(voided.iter().map(|one| one.key));
    Ok(voided)
}

/// Says once for all of them what is void.
fn tell(voided: &[Voided]) {
    const LISTED: usize = 8;
    let Some(first) = voided.first() else { return };
    let labels: Vec<&str> = voided.iter().map(|one| one.label.as_str()).collect();
    let listed = labels[..labels.len().min(LISTED)].join(", ");
    let more = match labels.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    tracing::warn!(
        reason = first.reason,
        "void, to be computed again: {listed}{more}"
    );
}

/// The records of the same families that are not older.
fn relatives(
    store: &Store,
    voided: &[Voided],
    created: &BTreeMap<Digest, (String, u64)>,
) -> Result<Vec<Voided>, StoreError> {
    let gone: BTreeSet<Digest> = voided.iter().map(|one| one.key).collect();
    let mut found = Vec::new();
    if gone.is_empty() {
        return Ok(found);
    }
    for members in family::all(store)? {
        let at = |key: &Digest| created.get(key).map(|(_, at)| *at);
        let first = members
            .iter()
            .filter(|key| gone.contains(key))
            .filter_map(at)
            .min();
        let Some(first) = first else { continue };
        for key in members.iter().filter(|key| !gone.contains(key)) {
            if let Some((label, at)) = created.get(key)
                && at.saturating_add(CLOCKS_DIFFER) >= first
            {
                found.push(Voided {
                    key: *key,
                    label: label.clone(),
                    reason: "may have taken parts over from a result that was computed from a damaged artifact".into(),
                });
            }
        }
    }
    found.sort_by_key(|one| one.key);
    found.dedup_by(|a, b| a.key == b.key);
    Ok(found)
}

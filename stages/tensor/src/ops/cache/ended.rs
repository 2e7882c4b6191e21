//! What of a cache is no longer needed.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::ops::Continuation;

/// What a step no longer has of the one before.
pub(super) struct Ended {
    pub(super) prefixes: Vec<usize>,
    pub(super) sequences: Vec<usize>,
}

impl Ended {
    /// A prefix that has entered may have ended before its first step.
    pub(super) fn between(
        before: &[Continuation],
        entered: Range<usize>,
        now: &[Continuation],
    ) -> Self {
        let prefixes: BTreeSet<usize> = now.iter().map(|owner| owner.prefix).collect();
        let sequences: BTreeSet<usize> = now.iter().map(|owner| owner.sequence).collect();
        let had: BTreeSet<usize> = before.iter().map(|owner| owner.prefix).collect();
        let had = had.into_iter().chain(entered);
        let went = before.iter().map(|owner| owner.sequence);
        Self {
            prefixes: had.filter(|prefix| !prefixes.contains(prefix)).collect(),
            sequences: went.filter(|went| !sequences.contains(went)).collect(),
        }
    }
}

//! What the threads of a run say to the one that decides.

use std::sync::Arc;

use dcsft_cache::{Record, StoreError};

use crate::run::admission::Share;
use crate::run::outcome::{Outcome, Word};
use crate::stage::Shard;
use crate::study::NodeId;

/// What the cache has for each of some stages.
pub(super) type Answers = Result<Vec<(NodeId, Option<Arc<Record>>)>, StoreError>;

/// What a thread works on: a stage, or one shard of it.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    pub(super) id: NodeId,
    pub(super) shard: Option<Shard>,
}

/// What a thread says.
pub(super) enum Message {
    Word(Unit, Word),
    Ended(Unit, Outcome, Share),
    Answered(Answers),
}

//! What the threads of a run say to the one that decides.

use std::sync::Arc;

use dcsft_cache::{Record, StoreError};

use crate::run::outcome::{Outcome, Word};
use crate::run::resources::Share;
use crate::study::NodeId;

/// What the cache has for each of some stages.
pub(super) type Answers = Result<Vec<(NodeId, Option<Arc<Record>>)>, StoreError>;

/// What a thread says.
pub(super) enum Message {
    Word(NodeId, Word),
    Ended(NodeId, Outcome, Share),
    Answered(Answers),
}

//! A key that a run has to find or to compute.

use std::sync::Arc;

use dcsft_cache::Digest;

use crate::key::KeyPreimage;
use crate::study::NodeId;

/// A key that has to be found or computed, once for all stages that have it.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) key: Digest,
    pub(super) preimage: Arc<KeyPreimage>,
    /// Asked to run though there may be a result.
    pub(super) forced: bool,
    /// The other stages with this key.
    pub(super) followers: Vec<NodeId>,
}

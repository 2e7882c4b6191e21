//! What a stage has when it starts: its lock, its inputs, its relatives.

use std::collections::BTreeMap;

use dcsft_cache::{Digest, KeyLock};

use crate::stage::{Input, Relative};

/// A stage that can start.
pub(super) struct Prepared {
    /// Held until the record is committed.
    pub(super) lock: KeyLock,
    pub(super) inputs: BTreeMap<String, Vec<Input>>,
    /// The family that the result belongs to, and what there is of it.
    pub(super) family: Option<Digest>,
    pub(super) relatives: Vec<Relative>,
}

//! What is expected of a stage before it runs: how much memory it takes, and facts about what it will write.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

/// Memory of a stage, estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Numbers in the stage's model, adapters included.
    pub parameters: u64,
    /// Of these, numbers that the stage trains.
    pub trained: u64,
    /// Bytes of what one pass holds besides weights, gradients and optimiser states: in training what is kept for the
    /// backward pass, else the cache of keys and values and the widest operation.
    pub activation_bytes: u64,
    /// Most bytes in use at once: on `cpu` the resident memory of the stage's process, on a GPU the GPU's memory.
    pub peak_bytes: u64,
}

/// What is expected of one stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Its memory; none where the kind has no estimate or too little is known.
    pub memory: Option<Memory>,
    /// Facts about its outputs, by name; shared with the stages that read them.
    pub facts: BTreeMap<String, Arc<Value>>,
}

/// What a kind knows of a stage before it runs.
#[derive(Clone, Debug, Default)]
pub struct Prospect {
    /// `cpu` or `cuda`, with or without an index.
    pub device: String,
    /// Threads that the stage is to have.
    pub threads: usize,
    /// Facts about each artifact of each input, `null` where nothing is known of it.
    pub inputs: BTreeMap<String, Vec<Arc<Value>>>,
    /// Folders of the stage's own outputs, where they are in the cache.
    pub outputs: BTreeMap<String, PathBuf>,
}

impl Prospect {
    /// The facts about the first artifact of an input.
    pub fn input(&self, name: &str) -> Option<&Value> {
        self.inputs
            .get(name)
            .and_then(|all| all.first())
            .map(Arc::as_ref)
            .filter(|facts| !facts.is_null())
    }
}

//! What is expected of a stage before it runs: how much memory it takes, and facts about what it will write.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::params::ParamProblem;

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

/// What is known of an artifact before it exists. Its type is between the kinds that write and read it.
#[derive(Clone, Debug)]
pub struct Fact(Arc<dyn Known>);

impl Fact {
    /// The fact `known`.
    pub fn new(known: impl Any + Debug + PartialEq + Send + Sync) -> Self {
        Self(Arc::new(known))
    }

    /// The fact, if it is of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        (*self.0).any().downcast_ref()
    }
}

impl PartialEq for Fact {
    fn eq(&self, other: &Self) -> bool {
        self.0.same(&*other.0)
    }
}

/// A fact of whatever type.
trait Known: Debug + Send + Sync {
    fn any(&self) -> &dyn Any;
    fn same(&self, other: &dyn Known) -> bool;
}

impl<T: Any + Debug + PartialEq + Send + Sync> Known for T {
    fn any(&self) -> &dyn Any {
        self
    }

    fn same(&self, other: &dyn Known) -> bool {
        other.any().downcast_ref() == Some(self)
    }
}

/// What is expected of one stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Its memory; none where the kind has no estimate or too little is known.
    pub memory: Option<Memory>,
    /// Facts about its outputs, by name; shared with the stages that read them.
    pub facts: BTreeMap<String, Fact>,
    /// What of its params cannot be had with such inputs: it would fail at its start.
    pub problems: Vec<ParamProblem>,
}

/// What a kind knows of a stage before it runs.
#[derive(Clone, Debug, Default)]
pub struct Prospect {
    /// `cpu` or `cuda`, with or without an index.
    pub device: String,
    /// Whether the memory is asked for. Otherwise only problems are, and a kind reads no data for it.
    pub memory: bool,
    /// Threads that the stage is to have.
    pub threads: usize,
    /// Facts about each artifact of each input; none where nothing is known of it.
    pub inputs: BTreeMap<String, Vec<Option<Fact>>>,
    /// Folders of the stage's own outputs, where they are in the cache.
    pub outputs: BTreeMap<String, PathBuf>,
}

impl Prospect {
    /// The facts about the first artifact of an input, where they are of this type.
    pub fn input<T: 'static>(&self, name: &str) -> Option<&T> {
        self.inputs.get(name)?.first()?.as_ref()?.get()
    }
}

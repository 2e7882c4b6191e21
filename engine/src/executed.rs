//! What is known of the execution behind a record.

use dcsft_cache::Record;
use serde::{Deserialize, Serialize};

use crate::provenance::{Machine, Program};

/// The facts of one execution, as [`Record::execution`] keeps them. Older records lack some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Executed {
    /// Wall time of the attempt that succeeded and of the interrupted ones that it carried on from.
    pub seconds: f64,
    /// Processor time of the same, where all of it is known.
    pub cpu_seconds: Option<f64>,
    /// Wall time that other results have spared it.
    pub saved_seconds: f64,
    /// Processor time that other results have spared it.
    pub saved_cpu_seconds: Option<f64>,
    /// Threads that it was given.
    pub threads: Option<usize>,
    /// `cpu`, `cuda:0`.
    pub device: Option<String>,
    /// Tries until it succeeded, in the last run.
    pub attempts: Option<u32>,
    /// Most memory that its process had, in bytes.
    pub peak_rss_bytes: Option<u64>,
    /// When the last attempt began, in seconds since 1970.
    pub started_unix: Option<u64>,
    /// Mean number of cores that were busy with something else meanwhile.
    pub other_cores: Option<f64>,
    /// Whether fewer cores were free than it had threads.
    pub shared: Option<bool>,
    /// Where it ran.
    pub machine: Option<Machine>,
    /// The program that ran it.
    pub program: Option<Program>,
}

impl Executed {
    /// The facts in a record; none of them where it has them in another shape.
    pub fn of(record: &Record) -> Self {
        Self::deserialize(&record.execution).unwrap_or_default()
    }
}

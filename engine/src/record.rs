//! What is known of the execution behind a record.

use dcsft_cache::Record;
use serde::{Deserialize, Serialize};

use crate::provenance::{Machine, Program};
use crate::stage::Cost;

/// What an execution took, and where it was: what [`Record::execution`] holds. Older records lack some of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Execution {
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

impl Execution {
    /// The facts in a record; none of them where it has them in another shape.
    pub fn of(record: &Record) -> Self {
        record.execution.parse().unwrap_or_default()
    }

    /// Seconds that it takes to compute a record's result from nothing.
    pub fn cost_seconds(record: &Record) -> f64 {
        Self::of(record).cost().seconds
    }

    /// What it takes to compute the result from nothing: what it took, and what other results have spared it.
    pub fn cost(&self) -> Cost {
        let own = Cost {
            seconds: self.seconds,
            cpu_seconds: self.cpu_seconds,
        };
        let saved = Cost {
            seconds: self.saved_seconds,
            // Where nothing was saved, nothing is unknown about it.
            cpu_seconds: self
                .saved_cpu_seconds
                .or_else(|| (self.saved_seconds == 0.0).then_some(0.0)),
        };
        own + saved
    }
}

//! How to use a cluster.

use std::time::Duration;

/// How to use a cluster. What a stage's `resources` say of the same goes before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlurmOptions {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// Further arguments of `sbatch`, as in `--constraint=a100`.
    pub flags: Vec<String>,
    /// How often the cluster is asked, once for all jobs.
    pub poll: Duration,
}

impl Default for SlurmOptions {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            flags: Vec::new(),
            poll: Duration::from_secs(10),
        }
    }
}

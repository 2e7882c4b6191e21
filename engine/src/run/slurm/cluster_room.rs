//! What a stage gets of a cluster: whatever it asks for. The cluster itself says when.

use crate::plan::Plan;
use crate::run::admission::{Admission, Ask, Share};
use crate::run::{RunError, RunOptions};
use crate::stage::Registry;
use crate::study::{Node, Shards, Study};

/// Stages that are submitted at once where nothing else is said.
const JOBS: usize = 200;
/// Shards that `auto` means: how much there is, a cluster does not say.
const SHARDS: u32 = 8;

/// A run's share of a cluster, without an end.
pub(super) struct ClusterRoom {
    jobs: usize,
    /// What numeric stages compute on.
    device: String,
}

impl ClusterRoom {
    pub(super) fn new(options: &RunOptions, device: &str) -> Self {
        Self {
            jobs: options.jobs.unwrap_or(JOBS).max(1),
            device: device.to_owned(),
        }
    }
}

impl Admission for ClusterRoom {
    fn jobs(&self) -> usize {
        self.jobs
    }

    fn needs_accelerator(&self, _: Ask<'_>) -> bool {
        false
    }

    fn has_accelerator(&self) -> bool {
        false
    }

    fn admit(&mut self, ask: Ask<'_>) -> Option<Share> {
        let device = if ask.numeric { &self.device } else { "cpu" };
        Some(Share {
            device: device.to_owned(),
            accelerators: Vec::new(),
            memory: 0,
        })
    }

    fn give_back(&mut self, _: Share) {}

    /// A job of its own has one; whoever wants more says so.
    fn threads_for(&self, node: &Node, _: usize) -> usize {
        node.execution.resources.threads.unwrap_or(1).max(1)
    }

    fn shards_for(&self, ask: Ask<'_>, _: usize) -> u32 {
        match ask.node.execution.shards {
            Shards::Count(count) => count,
            Shards::Auto => SHARDS,
        }
    }

    /// What no node has, the cluster says when it is asked for.
    fn check(&self, _: &Study, _: &Registry, _: &Plan) -> Result<(), RunError> {
        Ok(())
    }
}

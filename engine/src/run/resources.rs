//! Which device and how many threads a stage gets.

use super::options::RunOptions;
use crate::study::Node;

/// What this machine has to share out.
pub(super) struct Resources {
    /// Stages that may run at once.
    pub(super) jobs: usize,
    threads: usize,
    /// Accelerators that no stage uses now.
    free: Vec<String>,
    accelerated: bool,
}

impl Resources {
    pub(super) fn new(options: &RunOptions, planned_device: &str) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(cores).max(1);
        let mut free: Vec<String> = options
            .devices
            .iter()
            .rev()
            .filter(|device| *device != "cpu")
            .cloned()
            .collect();
        if free.is_empty() && planned_device != "cpu" {
            free.push(planned_device.to_owned());
        }
        Self {
            jobs: options.jobs.unwrap_or(threads).max(1),
            threads,
            accelerated: !free.is_empty(),
            free,
        }
    }

    /// Whether a stage has to wait for an accelerator.
    pub(super) fn needs_accelerator(&self, numeric: bool) -> bool {
        numeric && self.accelerated
    }

    /// Whether an accelerator is free.
    pub(super) fn has_accelerator(&self) -> bool {
        !self.free.is_empty()
    }

    /// A device for a stage, or none while all are taken. Kinds that are not numeric need no accelerator.
    pub(super) fn take_device(&mut self, numeric: bool) -> Option<String> {
        if !self.needs_accelerator(numeric) {
            return Some("cpu".to_owned());
        }
        self.free.pop()
    }

    /// Gives a device back.
    pub(super) fn give_back(&mut self, device: String) {
        if device != "cpu" {
            self.free.push(device);
        }
    }

    /// Threads for a stage that starts while `active` stages, itself included, run or could start now.
    pub(super) fn threads_for(&self, node: &Node, active: usize) -> usize {
        let share = self.threads / active.clamp(1, self.jobs);
        node.execution.resources.threads.unwrap_or(share).max(1)
    }
}

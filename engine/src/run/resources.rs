//! What a stage gets of the machine: a device, threads, memory.

use std::fs;

use super::error::RunError;
use super::options::RunOptions;
use crate::plan::Plan;
use crate::stage::Registry;
use crate::study::{Node, Shards, Study};
use crate::units;

/// Shards that `auto` means where a batch system shares out what there is: it does not say how much.
const SHARDS_ELSEWHERE: u32 = 8;

/// What this machine has to share out. Where stages run elsewhere, a batch system does, and here nothing runs out.
pub(super) struct Resources {
    /// Stages that may run at once.
    pub(super) jobs: usize,
    threads: usize,
    /// Accelerators that no stage uses now.
    free: Vec<String>,
    /// How many there are in all.
    accelerators: usize,
    /// Bytes that no stage has asked for; none where nobody knows.
    memory: Option<u64>,
    /// The device of stages that run elsewhere.
    elsewhere: Option<String>,
}

/// What one stage was given.
#[derive(Clone, Debug)]
pub(super) struct Share {
    /// The device that it computes on.
    pub(super) device: String,
    /// All accelerators that are its own.
    accelerators: Vec<String>,
    memory: u64,
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
            accelerators: free.len(),
            free,
            memory: options.memory.or_else(of_this_machine),
            elsewhere: None,
        }
    }

    /// From now on stages run on other machines, on devices like `device`.
    pub(super) fn leave_to_others(&mut self, device: &str) {
        self.elsewhere = Some(device.to_owned());
    }

    /// Whether a stage has to wait for an accelerator of this machine.
    pub(super) fn needs_accelerator(&self, numeric: bool) -> bool {
        numeric && self.accelerators > 0 && self.elsewhere.is_none()
    }

    /// Whether an accelerator is free.
    pub(super) fn has_accelerator(&self) -> bool {
        !self.free.is_empty()
    }

    /// A share for a stage, or none while others have what it needs. Kinds that are not numeric need no accelerator.
    pub(super) fn take(&mut self, node: &Node, numeric: bool) -> Option<Share> {
        if let Some(device) = &self.elsewhere {
            let device = if numeric { device } else { "cpu" };
            return Some(Share {
                device: device.to_owned(),
                accelerators: Vec::new(),
                memory: 0,
            });
        }
        let memory = node.execution.resources.memory.unwrap_or(0);
        if self.memory.is_some_and(|free| free < memory) {
            return None;
        }
        let count = match self.needs_accelerator(numeric) {
            true => accelerators(node),
            false => 0,
        };
        let from = self.free.len().checked_sub(count)?;
        let mut accelerators = self.free.split_off(from);
        accelerators.reverse();
        if let Some(free) = &mut self.memory {
            *free -= memory;
        }
        Some(Share {
            device: accelerators
                .first()
                .map_or_else(|| "cpu".to_owned(), Clone::clone),
            accelerators,
            memory,
        })
    }

    /// Gives back what a stage has used.
    pub(super) fn give_back(&mut self, share: Share) {
        self.free.extend(share.accelerators.into_iter().rev());
        if let Some(free) = &mut self.memory {
            *free += share.memory;
        }
    }

    /// Threads for a stage that starts while `active` stages, itself included, run or could start now.
    pub(super) fn threads_for(&self, node: &Node, active: usize) -> usize {
        let asked = node.execution.resources.threads;
        let share = match &self.elsewhere {
            // A job of its own: whoever wants more says so.
            Some(_) => 1,
            None => self.threads / active.clamp(1, self.jobs),
        };
        asked.unwrap_or(share).max(1)
    }

    /// Into how many shards a stage is cut that starts while `active` stages, itself included, run or could start now.
    /// Without a number of its own, all that could start share what there is evenly.
    pub(super) fn shards_for(&self, node: &Node, numeric: bool, active: usize) -> u32 {
        if let Shards::Count(count) = node.execution.shards {
            return count;
        }
        if self.elsewhere.is_some() {
            return SHARDS_ELSEWHERE;
        }
        let mut room = self.jobs;
        if self.needs_accelerator(numeric) {
            room = room.min(self.accelerators / accelerators(node));
        }
        if let (Some(free), Some(asked @ 1..)) = (self.memory, node.execution.resources.memory) {
            // It has its own share already.
            room = room.min(usize::try_from(free / asked + 1).unwrap_or(usize::MAX));
        }
        let shards = room / active.max(1);
        u32::try_from(shards).map_or(Shards::MOST, |shards| shards.clamp(1, Shards::MOST))
    }

    /// Whether everything that the plan has to run can run here at all.
    ///
    /// # Errors
    /// [`RunError::NoRoom`] for the first stage that would wait for ever.
    pub(super) fn check(
        &self,
        study: &Study,
        registry: &Registry,
        plan: &Plan,
    ) -> Result<(), RunError> {
        if self.elsewhere.is_some() {
            return Ok(());
        }
        let nodes = study.nodes.iter().zip(&plan.nodes);
        for (node, _) in nodes.filter(|(_, planned)| planned.state.record().is_none()) {
            let numeric = registry
                .get(&node.kind)
                .is_some_and(|kind| kind.decl().numeric);
            let no_room = |what: String| RunError::NoRoom {
                title: node.title(),
                place: study.place_text(&node.place),
                what,
            };
            let asked = node.execution.resources.memory.unwrap_or(0);
            if let Some(memory) = self.memory.filter(|memory| *memory < asked) {
                return Err(no_room(format!(
                    "{} of memory, and this machine has {}",
                    units::size(asked),
                    units::size(memory)
                )));
            }
            if self.needs_accelerator(numeric) && accelerators(node) > self.accelerators {
                return Err(no_room(format!(
                    "{} accelerators, and the run has {}",
                    accelerators(node),
                    self.accelerators
                )));
            }
        }
        Ok(())
    }
}

/// How many accelerators a numeric stage gets where there are some.
fn accelerators(node: &Node) -> usize {
    node.execution.resources.gpus.max(1) as usize
}

/// Bytes of memory that this process's group may use; none where the system does not tell.
fn of_this_machine() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let total = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(of_the_group().unwrap_or(u64::MAX).min(kib * 1024))
}

/// The limit of the control group (version 2) that this process is in, or of one above it.
fn of_the_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let own = root.join(own.trim_start_matches('/'));
    let folders = own
        .ancestors()
        .take_while(|folder| folder.starts_with(root));
    folders
        .filter_map(|folder| fs::read_to_string(folder.join("memory.max")).ok())
        .filter_map(|limit| limit.trim().parse().ok())
        .min()
}

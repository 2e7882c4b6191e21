//! What a stage gets of this machine: a device, threads, memory.

use std::fs;

use super::admission::{Admission, Ask, Share};
use super::error::RunError;
use super::options::RunOptions;
use crate::plan::Plan;
use crate::stage::Registry;
use crate::study::{Node, Shards, Study};
use crate::units;

/// The name of this machine's processor among devices.
const CPU: &str = "cpu";

/// What this machine has to share out.
#[derive(Debug)]
pub struct Machine {
    jobs: usize,
    threads: usize,
    accelerators: Accelerators,
    /// Bytes that no stage has asked for; none where nobody knows.
    memory: Option<u64>,
}

/// GPUs and the like, each for one stage at a time.
#[derive(Debug)]
struct Accelerators {
    /// Those that no stage uses now.
    free: Vec<String>,
    /// How many there are in all.
    count: usize,
    /// They are the run's own, and every numeric stage computes on them. Else only programs use them that ask for some.
    of_the_run: bool,
}

impl Machine {
    /// This machine as a run uses it that computes on `device`, if its options name no devices.
    pub fn new(options: &RunOptions, device: &str) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(cores).max(1);
        Self {
            jobs: options.jobs.unwrap_or(threads).max(1),
            threads,
            accelerators: Accelerators::new(&options.devices, device, &options.gpus),
            memory: options.memory.or_else(of_this_machine),
        }
    }
}

impl Accelerators {
    fn new(devices: &[String], device: &str, gpus: &[String]) -> Self {
        let is_one = |device: &&String| *device != CPU;
        let mut own: Vec<String> = devices.iter().filter(is_one).cloned().collect();
        if own.is_empty() && device != CPU {
            own.push(device.to_owned());
        }
        let of_the_run = !own.is_empty();
        let mut free = if of_the_run { own } else { gpus.to_vec() };
        // The first is given first.
        free.reverse();
        Self {
            count: free.len(),
            free,
            of_the_run,
        }
    }

    /// How many the stage gets.
    fn asked(&self, Ask { node, numeric }: Ask<'_>) -> usize {
        let asked = node.execution.resources.gpus as usize;
        match (numeric, self.of_the_run) {
            (true, true) => asked.max(1),
            (true, false) => 0,
            // Nobody can tell what a machine has of which no GPU is seen.
            (false, _) if self.count == 0 => 0,
            (false, _) => asked,
        }
    }
}

impl Admission for Machine {
    fn jobs(&self) -> usize {
        self.jobs
    }

    fn needs_accelerator(&self, ask: Ask<'_>) -> bool {
        self.accelerators.asked(ask) > 0
    }

    fn has_accelerator(&self) -> bool {
        !self.accelerators.free.is_empty()
    }

    fn admit(&mut self, ask: Ask<'_>) -> Option<Share> {
        let memory = ask.node.execution.resources.memory.unwrap_or(0);
        if self.memory.is_some_and(|free| free < memory) {
            return None;
        }
        let count = self.accelerators.asked(ask);
        let free = &mut self.accelerators.free;
        let from = free.len().checked_sub(count)?;
        let mut accelerators = free.split_off(from);
        accelerators.reverse();
        if let Some(free) = &mut self.memory {
            *free -= memory;
        }
        let first = accelerators.first();
        Some(Share {
            device: first.map_or_else(|| CPU.to_owned(), Clone::clone),
            accelerators,
            memory,
        })
    }

    fn give_back(&mut self, share: Share) {
        let accelerators = share.accelerators.into_iter().rev();
        self.accelerators.free.extend(accelerators);
        if let Some(free) = &mut self.memory {
            *free += share.memory;
        }
    }

    fn threads_for(&self, node: &Node, active: usize) -> usize {
        let share = self.threads / active.clamp(1, self.jobs);
        node.execution.resources.threads.unwrap_or(share).max(1)
    }

    /// Without a number of its own, all that could start share what there is evenly.
    fn shards_for(&self, ask: Ask<'_>, active: usize) -> u32 {
        let execution = &ask.node.execution;
        if let Shards::Count(count) = execution.shards {
            return count;
        }
        let mut room = self.jobs;
        if let asked @ 1.. = self.accelerators.asked(ask) {
            room = room.min(self.accelerators.count / asked);
        }
        if let (Some(free), Some(asked @ 1..)) = (self.memory, execution.resources.memory) {
            // It has its own share already.
            room = room.min(usize::try_from(free / asked + 1).unwrap_or(usize::MAX));
        }
        let shards = room / active.max(1);
        u32::try_from(shards).map_or(Shards::MOST, |shards| shards.clamp(1, Shards::MOST))
    }

    fn check(&self, study: &Study, registry: &Registry, plan: &Plan) -> Result<(), RunError> {
        let nodes = study.nodes.iter().zip(&plan.nodes);
        for (node, _) in nodes.filter(|(_, planned)| planned.state.record().is_none()) {
            let kind = registry.get(&node.kind);
            let numeric = kind.is_some_and(|kind| kind.decl().numeric);
            if let Some(what) = self.lacks(Ask { node, numeric }) {
                return Err(RunError::NoRoom {
                    title: node.title(),
                    place: study.place_text(&node.place),
                    what,
                });
            }
        }
        Ok(())
    }
}

impl Machine {
    /// What a stage asks for that there never is, in words. Nothing may have been shared out yet.
    fn lacks(&self, ask: Ask<'_>) -> Option<String> {
        let asked = ask.node.execution.resources.memory.unwrap_or(0);
        if let Some(memory) = self.memory.filter(|memory| *memory < asked) {
            return Some(format!(
                "{} of memory, and this machine has {}",
                units::size(asked),
                units::size(memory)
            ));
        }
        let asked = self.accelerators.asked(ask);
        let who = match self.accelerators.of_the_run {
            true => "the run",
            false => "this machine",
        };
        (asked > self.accelerators.count).then(|| {
            let count = self.accelerators.count;
            format!("{asked} accelerators, and {who} has {count}")
        })
    }
}

/// The NVIDIA GPUs that a program on this machine may use, as devices: those that `CUDA_VISIBLE_DEVICES` leaves, else all
/// that the driver lists.
pub fn gpus_of_this_machine() -> Vec<String> {
    let count = match std::env::var("CUDA_VISIBLE_DEVICES") {
        // What comes after one that does not exist is not seen either; batch systems write a word for none.
        Ok(visible) => visible
            .split(',')
            .map(str::trim)
            .take_while(|name| {
                let is_index = name.starts_with(|c: char| c.is_ascii_digit());
                is_index || name.starts_with("GPU-") || name.starts_with("MIG-")
            })
            .count(),
        Err(_) => {
            let listed = fs::read_dir("/proc/driver/nvidia/gpus");
            listed.map_or(0, |entries| entries.flatten().count())
        }
    };
    (0..count).map(|index| format!("cuda:{index}")).collect()
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

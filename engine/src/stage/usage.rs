//! What a worker process took: processor time, and who else had the processor meanwhile.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::provenance::Machine;

/// What a worker took, said before it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor seconds, user and system, of all its threads and of the programs it started and waited for; none
    /// where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// Processor seconds that relatives have spared it; none where that is not known.
    pub saved_cpu_seconds: Option<f64>,
    /// Mean number of the machine's cores that were busy with something else meanwhile; none where the system does
    /// not tell, or the time was too short.
    pub other_cores: Option<f64>,
    /// Cores of the machine, as far as the system counts them for `other_cores`.
    pub all_cores: Option<usize>,
    /// Where it ran.
    pub machine: Machine,
}

/// Cores that may be busy with something else without a word: a system is never quite idle.
const NOISE: f64 = 0.25;

impl Usage {
    /// Whether fewer cores were free than the stage had threads. Wall times are then too long, and processor times a
    /// little. None where it is not known.
    pub fn shared(&self, threads: usize) -> Option<bool> {
        let (others, cores) = self.other_cores.zip(self.all_cores)?;
        Some(others + threads as f64 > cores as f64 + NOISE)
    }
}

/// Measures from [`Meter::start`] to [`Meter::stop`].
pub(crate) struct Meter {
    started: Instant,
    cpu_seconds: Option<f64>,
    load: Option<Load>,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            cpu_seconds: cpu_seconds(),
            load: Load::now(),
        }
    }

    /// What the process took until now, from its very start.
    pub(crate) fn stop(&self, saved_cpu_seconds: Option<f64>) -> Usage {
        let cpu_seconds = cpu_seconds();
        let load = self.load.as_ref().zip(Load::now());
        let busy = load.and_then(|(before, now)| Some((now.busy_cores(before)?, now.cores)));
        let own = cpu_seconds.zip(self.cpu_seconds).map(|(now, before)| {
            (now - before) / self.started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
        });
        Usage {
            cpu_seconds,
            saved_cpu_seconds,
            other_cores: busy.zip(own).map(|((busy, _), own)| (busy - own).max(0.0)),
            all_cores: busy.map(|(_, cores)| cores),
            machine: Machine::this().clone(),
        }
    }
}

/// The system's count of what its cores did since it started, in ticks.
#[derive(Debug, PartialEq)]
struct Load {
    busy: u64,
    all: u64,
    cores: usize,
}

/// Fewer ticks than this tell nothing: a tick is 10 ms on one core.
const FEWEST_TICKS: u64 = 20;

impl Load {
    /// None on systems without `/proc/stat`.
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The line `cpu` has user, nice, system, idle, iowait, irq, softirq and steal, then parts of the first two.
    fn parse(text: &str) -> Option<Self> {
        const IDLE: [usize; 2] = [3, 4];
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let all: u64 = ticks.iter().sum();
        let idle: u64 = IDLE.iter().filter_map(|index| ticks.get(*index)).sum();
        let is_core = |line: &&str| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        Some(Self {
            busy: all - idle,
            all,
            cores: text.lines().filter(is_core).count(),
        })
    }

    /// Mean number of busy cores since `before`.
    fn busy_cores(&self, before: &Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all)?;
        let busy = self.busy.checked_sub(before.busy)?;
        let enough = all >= FEWEST_TICKS * self.cores as u64 && self.cores > 0;
        enough.then(|| self.cores as f64 * busy as f64 / all as f64)
    }
}

/// Processor seconds of this process and of the children it has waited for.
pub(crate) fn cpu_seconds() -> Option<f64> {
    #[cfg(unix)]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeValLike as _;
        let whose = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN];
        whose.into_iter().try_fold(0.0, |sum, who| {
            let usage = getrusage(who).ok()?;
            let micros =
                usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            Some(sum + micros as f64 * 1e-6)
        })
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 50 0 25 400 25 0 0 0 0 0\n\
                          cpu1 50 0 25 400 25 0 0 0 0 0\nintr 5\n";

    fn usage(other_cores: f64) -> Usage {
        Usage {
            cpu_seconds: None,
            saved_cpu_seconds: None,
            other_cores: Some(other_cores),
            all_cores: Some(2),
            machine: Machine::this().clone(),
        }
    }

    #[test]
    fn busy_cores_are_what_is_neither_idle_nor_waiting_for_a_disk() {
        let before = Load::parse(BEFORE).unwrap();
        let after = Load::parse(&BEFORE.replace("100 0 50 800 50 0 0 0", "175 0 70 900 50 0 0 5"));
        // 100 of 200 ticks of two cores were busy, stolen ones among them.
        assert_eq!(after.unwrap().busy_cores(&before), Some(1.0));
        assert_eq!(before.busy_cores(&before), None, "too short to tell");
    }

    #[test]
    fn a_processor_is_shared_where_fewer_cores_are_free_than_threads() {
        assert_eq!(usage(1.0).shared(1), Some(false));
        assert_eq!(usage(1.0).shared(2), Some(true));
        assert_eq!(usage(0.1).shared(2), Some(false));
        let unknown = Usage {
            other_cores: None,
            ..usage(0.0)
        };
        assert_eq!(unknown.shared(64), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn work_takes_processor_time() {
        let meter = Meter::start();
        let before = cpu_seconds().unwrap();
        let mut sum = 0_u64;
        while cpu_seconds().unwrap() < before + 0.05 {
            sum = std::hint::black_box(sum + 1);
        }
        let usage = meter.stop(Some(0.0));
        assert!(usage.cpu_seconds.unwrap() >= before + 0.05);
    }
}

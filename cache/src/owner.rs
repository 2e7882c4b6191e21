//! Who holds something of the store, in words for people and for other processes, on whatever host.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::Digest;

/// A process that holds something, and which of its holdings this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// Given once and never again.
    pub(crate) id: String,
    /// The host's name, for people.
    pub(crate) host: String,
    /// Equal for processes that see each other's numbers: the same boot of the same system, and the same namespace of
    /// processes there. A host's name says neither.
    pub(crate) place: String,
    /// The process's number.
    pub(crate) pid: u32,
    /// When it started, in the system's ticks since boot; tells it from a later process of the same number.
    pub(crate) started: u64,
    /// What it does, as in `dcsft run sweep`.
    pub(crate) what: String,
}

/// Whether a process still lives, as far as it can be told from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    Gone,
    /// It is somewhere else.
    Unknown,
}

impl Owner {
    /// This process, for one holding more.
    pub(crate) fn this(what: &str) -> Self {
        let pid = std::process::id();
        Self {
            id: fresh_id(),
            host: host(),
            place: place().to_owned(),
            pid,
            started: match found(pid) {
                Found::Running(started) => started,
                Found::Hidden | Found::Nothing => 0,
            },
            what: what.to_owned(),
        }
    }

    /// What became of it.
    pub(crate) fn fate(&self) -> Fate {
        if self.place.is_empty() || self.place != place() {
            return Fate::Unknown;
        }
        match found(self.pid) {
            Found::Running(started) if started == self.started => Fate::Lives,
            // Where the system hides other users' processes it still says that there is one.
            Found::Hidden => Fate::Unknown,
            Found::Running(_) | Found::Nothing => Fate::Gone,
        }
    }

    /// `process 4711 on node2 (dcsft run sweep)`.
    pub(crate) fn words(&self) -> String {
        let mut words = format!("process {}", self.pid);
        if !self.host.is_empty() {
            words += &format!(" on {}", self.host);
        }
        if !self.what.is_empty() {
            words += &format!(" ({})", self.what);
        }
        words
    }
}

/// The host's name; empty where the system does not tell.
pub(crate) fn host() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
}

fn fresh_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // A new `RandomState` has keys that the system drew.
    let drawn = [(); 2].map(|()| RandomState::new().hash_one(count));
    let seed = format!("{} {} {count} {drawn:?}", place(), std::process::id());
    Digest::of_bytes(seed.as_bytes()).hex()[..32].to_owned()
}

fn place() -> &'static str {
    static PLACE: OnceLock<String> = OnceLock::new();
    PLACE.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        match boot.trim() {
            "" => String::new(),
            boot => format!("{boot} {}", namespace.display()),
        }
    })
}

/// What is seen of a process of this system.
enum Found {
    /// It started then.
    Running(u64),
    /// There is one of this number, and nothing is to be seen of it.
    Hidden,
    /// There is none, or it has ended and nobody has waited for it.
    Nothing,
}

fn found(pid: u32) -> Found {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => started(&stat).map_or(Found::Nothing, Found::Running),
        Err(_) if exists(pid) => Found::Hidden,
        Err(_) => Found::Nothing,
    }
}

/// When the process of a `/proc/PID/stat` started; none for one that has ended.
fn started(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything. After it: the state as the third field of all, the start as the 22nd.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(started)
}

/// Whether there is a process of this number, whoever's.
#[cfg(unix)]
fn exists(pid: u32) -> bool {
    use rustix::process::{Pid, test_kill_process};
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // It may not be ours to signal; then it is there.
    pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn exists(_: u32) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn this_process_exists_and_no_number_that_is_none_does() {
        assert!(exists(std::process::id()));
        assert!(exists(1), "another user's or not");
        assert!(!exists(u32::MAX));
        assert_eq!(Owner::this("").fate(), Fate::Lives);
    }

    #[test]
    fn what_has_ended_has_no_start() {
        let stat = |state: &str| format!("7 (a) b) {state} 1{} 42 0", " 0".repeat(17));
        assert_eq!(started(&stat("S")), Some(42));
        assert_eq!(started(&stat("Z")), None);
    }
}

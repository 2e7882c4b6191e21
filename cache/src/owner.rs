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
            started: started(pid).unwrap_or(0),
            what: what.to_owned(),
        }
    }

    /// What became of it.
    pub(crate) fn fate(&self) -> Fate {
        if self.place.is_empty() || self.place != place() {
            return Fate::Unknown;
        }
        match started(self.pid) {
            Some(started) if started == self.started => Fate::Lives,
            _ => Fate::Gone,
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

/// When a process of this system started; none if there is none. One that has ended and that nobody has waited for is
/// gone.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything. After it: the state as the third field of all, the start as the 22nd.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(started)
}

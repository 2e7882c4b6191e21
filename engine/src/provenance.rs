//! Which program made a result, and on what machine. For people: no key and no result depends on it.

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// A program, as it was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// The commit that it was built from; none where it was not built in a checkout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The checkout had changes that were in no commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dirty: bool,
}

impl Default for Program {
    /// This crate, of an unknown commit.
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: None,
            dirty: false,
        }
    }
}

/// `0.1.0 (1cd346f1a2b3, with changes)`.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.version)?;
        let Some(commit) = &self.commit else {
            return Ok(());
        };
        let short = commit.get(..12).unwrap_or(commit);
        let changes = if self.dirty { ", with changes" } else { "" };
        write!(f, " ({short}{changes})")
    }
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name in the network, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The processor's model as the system names it; its architecture where it does not.
    pub processor: String,
    /// The widest vector instructions that arithmetic may use: `x86_64 avx512`, `x86_64 avx2+fma`, `aarch64 neon`.
    pub instructions: String,
    /// Cores that this process may use.
    pub cores: usize,
}

impl Machine {
    /// The machine that this process runs on.
    pub fn this() -> &'static Self {
        static THIS: LazyLock<Machine> = LazyLock::new(|| Machine {
            host: host(),
            processor: processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            instructions: instructions(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        });
        &THIS
    }
}

/// `Intel(R) Xeon(R) Processor (x86_64 avx512), 2 cores`.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            processor,
            instructions,
            cores,
            ..
        } = self;
        let word = if *cores == 1 { "core" } else { "cores" };
        write!(f, "{processor} ({instructions}), {cores} {word}")
    }
}

fn host() -> Option<String> {
    #[cfg(unix)]
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok()?;
    Some(name).filter(|name| !name.is_empty())
}

/// The model in `/proc/cpuinfo`; which field has it differs between architectures.
fn processor() -> Option<String> {
    const FIELDS: [&str; 4] = ["model name", "cpu model", "Hardware", "cpu"];
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    FIELDS.iter().find_map(|field| {
        let value = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == *field).then(|| value.trim().to_owned())
        });
        value.filter(|value| !value.is_empty())
    })
}

fn instructions() -> String {
    let arch = std::env::consts::ARCH;
    #[cfg(target_arch = "x86_64")]
    let class = match () {
        () if is_x86_feature_detected!("avx512f") => "avx512",
        () if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") => "avx2+fma",
        () if is_x86_feature_detected!("avx2") => "avx2",
        () if is_x86_feature_detected!("avx") => "avx",
        () => "sse",
    };
    #[cfg(target_arch = "aarch64")]
    let class = "neon";
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let class = "scalar";
    format!("{arch} {class}")
}

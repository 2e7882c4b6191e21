//! How devices are named, and what can be wrong with one.

use std::fmt;
use std::str::FromStr;

/// A device as the user names it: `cpu`, `cuda`, `cuda:1`, `wgpu` or `wgpu:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by index.
    Cuda(usize),
    /// An adapter of Vulkan, Metal or DirectX 12, by index: GPUs first, then drivers that run on the processor.
    Wgpu(usize),
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No device has this name.
    #[error(
        "no device {name:?}: write \"cpu\", \"cuda\", \"cuda:INDEX\", \"wgpu\" or \"wgpu:INDEX\""
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The program was built without what the device takes.
    #[error("{device} needs a build with GPU support: cargo build --release --features {}", device.class())]
    NotBuilt {
        /// What was asked for.
        device: DeviceSpec,
    },
    /// There is no GPU driver.
    #[error(
        "{device} needs the NVIDIA driver, and its library libcuda.so.1 cannot be loaded: {reason}"
    )]
    NoDriver {
        /// What was asked for.
        device: DeviceSpec,
        /// The loader's answer.
        reason: String,
    },
    /// There is no such GPU.
    #[error("{device} does not exist: the driver reports {count} GPU(s)")]
    NoGpu {
        /// What was asked for.
        device: DeviceSpec,
        /// GPUs there are.
        count: usize,
    },
    /// There is no such adapter.
    #[error(
        "{device} does not exist: the drivers for Vulkan, Metal or DirectX 12 offer {count} adapter(s){}",
        no_driver(*.count)
    )]
    NoAdapter {
        /// What was asked for.
        device: DeviceSpec,
        /// Adapters there are.
        count: usize,
    },
    /// The driver has the device and does not let it be used.
    #[error("{device} ({name}) cannot be used: {reason}")]
    Refused {
        /// What was asked for.
        device: DeviceSpec,
        /// The adapter's name.
        name: String,
        /// The driver's answer.
        reason: String,
    },
}

/// What to do where no adapter is.
fn no_driver(count: usize) -> &'static str {
    match count {
        0 => {
            "; install the GPU's Vulkan driver, or on Linux one that runs on the processor (mesa-vulkan-drivers)"
        }
        _ => "",
    }
}

/// An accelerator of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    /// How it is asked for.
    pub device: DeviceSpec,
    /// What its maker calls it.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// Bytes of its own memory, where the driver says.
    pub memory: Option<u64>,
}

impl DeviceSpec {
    /// The name without an index: also that of the build's feature.
    pub fn class(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
            Self::Wgpu(_) => "wgpu",
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let (class, index) = match name.split_once(':') {
            None => (name, Some(0)),
            Some((class, index)) => (class, index.parse().ok()),
        };
        match (class, index) {
            ("cpu", _) if name == class => Ok(Self::Cpu),
            ("cuda", Some(index)) => Ok(Self::Cuda(index)),
            ("wgpu", Some(index)) => Ok(Self::Wgpu(index)),
            _ => Err(DeviceError::Unknown {
                name: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(index) | Self::Wgpu(index) => write!(f, "{}:{index}", self.class()),
        }
    }
}

//! Where a model runs.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

/// A device as the user names it: `cpu`, `cuda` or `cuda:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by index.
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No device has this name.
    #[error("no device {name:?}: write \"cpu\", \"cuda\" or \"cuda:INDEX\"")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The program was built for the processor alone.
    #[error("{device} needs a build with GPU support: cargo build --release --features cuda")]
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
}

impl DeviceSpec {
    /// The device for inference; [`Device::autodiff`] makes one for training of it.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => open_cuda(self, index),
        }
    }
}

/// The device that tests run on: the one that the variable `DCSFT_TEST_DEVICE` names, else the processor.
///
/// # Panics
/// If there is no such device: its tests cannot run.
pub fn test_device() -> Device {
    let name = std::env::var("DCSFT_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let device = name.parse::<DeviceSpec>().and_then(DeviceSpec::open);
    device.unwrap_or_else(|error| panic!("DCSFT_TEST_DEVICE: {error}"))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(device: DeviceSpec, _index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { device })
}

/// Asks the driver before burn does: burn's first use of a missing GPU panics in threads of its own.
#[cfg(feature = "cuda")]
fn open_cuda(device: DeviceSpec, index: usize) -> Result<Device, DeviceError> {
    let count = gpu_count().map_err(|reason| DeviceError::NoDriver { device, reason })?;
    if index >= count {
        return Err(DeviceError::NoGpu { device, count });
    }
    Ok(Device::cuda(index))
}

#[cfg(feature = "cuda")]
fn gpu_count() -> Result<usize, String> {
    type Init = unsafe extern "C" fn(u32) -> i32;
    type Count = unsafe extern "C" fn(*mut i32) -> i32;
    // SAFETY: the driver's library runs no code of ours when it loads, and the two functions have these
    // signatures in every version of the driver's interface (cuda.h: cuInit, cuDeviceGetCount).
    unsafe {
        let driver = libloading::Library::new("libcuda.so.1").map_err(reason)?;
        let init = driver.get::<Init>(b"cuInit\0").map_err(reason)?;
        let get_count = driver.get::<Count>(b"cuDeviceGetCount\0").map_err(reason)?;
        let mut count = 0;
        for status in [init(0), get_count(&mut count)] {
            if status != 0 {
                return Err(format!("the driver answers with error {status}"));
            }
        }
        // The driver stays loaded: burn is about to use it.
        std::mem::forget(driver);
        Ok(usize::try_from(count).unwrap_or(0))
    }
}

/// The loader's error with what the system says of it.
#[cfg(feature = "cuda")]
fn reason(error: libloading::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl FromStr for DeviceSpec {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let index = match name.split_once(':') {
            None if name == "cpu" => return Ok(Self::Cpu),
            None if name == "cuda" => Some(0),
            Some(("cuda", index)) => index.parse().ok(),
            _ => None,
        };
        index.map(Self::Cuda).ok_or_else(|| DeviceError::Unknown {
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DeviceError, DeviceSpec};

    #[test]
    fn names_are_read_and_written() {
        for (name, spec) in [("cpu", DeviceSpec::Cpu), ("cuda:3", DeviceSpec::Cuda(3))] {
            assert_eq!(name.parse(), Ok(spec));
            assert_eq!(spec.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceSpec::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cpu:0"] {
            let unknown = DeviceError::Unknown { name: wrong.into() };
            assert_eq!(wrong.parse::<DeviceSpec>(), Err(unknown));
        }
    }

    #[test]
    fn the_processor_is_always_there() {
        assert!(DeviceSpec::Cpu.open().is_ok());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_gpu_without_gpu_support_is_one_sentence() {
        let error = DeviceSpec::Cuda(0).open().unwrap_err().to_string();
        assert!(
            error.starts_with("cuda:0 needs a build with GPU support"),
            "{error}"
        );
    }
}

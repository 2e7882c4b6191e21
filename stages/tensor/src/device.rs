//! Where a model runs.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod compiled;
#[cfg(feature = "cuda")]
mod cuda;
mod spec;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod watch;
#[cfg(feature = "wgpu")]
mod wgpu;

use burn::tensor::DType;

/// What tensors are on.
pub use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub use compiled::share_kernels;
pub use spec::{Accelerator, DeviceError, DeviceSpec};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub use watch::{give_back, launches, reserved};

/// The accelerators that this build can use and that are there. For a class that has none, why.
pub fn accelerators() -> Vec<Result<Accelerator, DeviceError>> {
    let classes: [Result<Vec<Accelerator>, DeviceError>; _] = [
        #[cfg(feature = "cuda")]
        cuda::list(),
        #[cfg(feature = "wgpu")]
        wgpu::list(),
    ];
    let each = |class: Result<Vec<_>, _>| match class {
        Ok(accelerators) => accelerators.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    };
    classes.into_iter().flat_map(each).collect()
}

/// Whether a device computes in numbers of this type. The processor does in all, where need be in wider ones.
pub fn computes_in(device: &Device, dtype: DType) -> bool {
    device.clone().inner() == Device::flex() || device.supports_dtype(dtype)
}

impl DeviceSpec {
    /// The device for inference; [`Device::autodiff`] makes one for training of it.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing.
    pub fn open(self) -> Result<Device, DeviceError> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        compiled::set_up(None);
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => cuda::open(self, index),
            #[cfg(feature = "wgpu")]
            Self::Wgpu(index) => wgpu::open(self, index),
            #[allow(unreachable_patterns)]
            device => Err(DeviceError::NotBuilt { device }),
        }
    }

    /// Looks whether the device is there, and takes nothing of it.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing.
    pub fn find(self) -> Result<(), DeviceError> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => cuda::find(self, index),
            #[cfg(feature = "wgpu")]
            Self::Wgpu(index) => wgpu::find(self, index),
            #[allow(unreachable_patterns)]
            device => Err(DeviceError::NotBuilt { device }),
        }
    }
}

/// The device that tests run on: the one that the variable `DCSFT_TEST_DEVICE` names, else the processor.
///
/// # Panics
/// If there is no such device: its tests cannot run.
pub fn test_device() -> Device {
    let device = test_device_spec().and_then(DeviceSpec::open);
    device.unwrap_or_else(|error| panic!("DCSFT_TEST_DEVICE: {error}"))
}

/// The device that tests run on, and a second one: the next of its class, or where there is none the same again.
///
/// # Panics
/// As [`test_device`].
pub fn test_devices() -> [Device; 2] {
    let next = match test_device_spec() {
        Ok(DeviceSpec::Cuda(index)) => DeviceSpec::Cuda(index + 1).open().ok(),
        Ok(DeviceSpec::Wgpu(index)) => DeviceSpec::Wgpu(index + 1).open().ok(),
        _ => None,
    };
    let first = test_device();
    [first.clone(), next.unwrap_or(first)]
}

fn test_device_spec() -> Result<DeviceSpec, DeviceError> {
    let name = std::env::var("DCSFT_TEST_DEVICE");
    name.unwrap_or_else(|_| "cpu".to_owned()).parse()
}

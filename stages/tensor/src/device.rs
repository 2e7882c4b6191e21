//! Where a model runs.

#[cfg(feature = "cuda")]
mod cuda;
mod spec;
#[cfg(feature = "wgpu")]
mod wgpu;

use burn::tensor::{DType, Device};

pub use spec::{Accelerator, DeviceError, DeviceSpec};

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
    let name = std::env::var("DCSFT_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let device = name.parse::<DeviceSpec>().and_then(DeviceSpec::open);
    device.unwrap_or_else(|error| panic!("DCSFT_TEST_DEVICE: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{DeviceError, DeviceSpec};

    #[test]
    fn names_are_read_and_written() {
        for (name, spec) in [
            ("cpu", DeviceSpec::Cpu),
            ("cuda:3", DeviceSpec::Cuda(3)),
            ("wgpu:2", DeviceSpec::Wgpu(2)),
        ] {
            assert_eq!(name.parse(), Ok(spec));
            assert_eq!(spec.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceSpec::Cuda(0)));
        assert_eq!("wgpu".parse(), Ok(DeviceSpec::Wgpu(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "wgpu:", "wgpu:x"] {
            let unknown = DeviceError::Unknown { name: wrong.into() };
            assert_eq!(wrong.parse::<DeviceSpec>(), Err(unknown));
        }
    }

    #[test]
    fn the_processor_is_always_there() {
        assert!(DeviceSpec::Cpu.open().is_ok());
    }

    #[test]
    fn what_the_build_lacks_is_one_sentence() {
        let lacking = [
            (cfg!(feature = "cuda"), DeviceSpec::Cuda(0), "cuda"),
            (cfg!(feature = "wgpu"), DeviceSpec::Wgpu(0), "wgpu"),
        ];
        for (_, device, feature) in lacking.into_iter().filter(|(built, ..)| !built) {
            let said = format!(
                "{device} needs a build with GPU support: cargo build --release --features {feature}"
            );
            assert_eq!(device.open().unwrap_err().to_string(), said);
            assert_eq!(device.find().unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn what_is_listed_can_be_asked_for_and_nothing_after_it() {
        let there: Vec<_> = super::accelerators().into_iter().flatten().collect();
        for accelerator in &there {
            assert_eq!(accelerator.device.find(), Ok(()));
            assert!(!accelerator.name.is_empty() && !accelerator.driver.is_empty());
        }
        for device in [DeviceSpec::Cuda(there.len()), DeviceSpec::Wgpu(there.len())] {
            let said = device.find().unwrap_err().to_string();
            assert!(said.starts_with(&device.to_string()), "{said}");
        }
    }
}

//! NVIDIA GPUs.

use burn::tensor::Device;

use super::spec::{Accelerator, DeviceError, DeviceSpec};

/// How many GPUs the driver has. It is asked before burn is: burn's first use of a missing GPU panics in threads of its
/// own.
///
/// # Errors
/// If there is no driver.
fn count(device: DeviceSpec) -> Result<usize, DeviceError> {
    let count = driver::count();
    count.map_err(|reason| DeviceError::NoDriver { device, reason })
}

/// Whether the GPU is there.
pub(super) fn find(device: DeviceSpec, index: usize) -> Result<(), DeviceError> {
    let count = count(device)?;
    match index < count {
        true => Ok(()),
        false => Err(DeviceError::NoGpu { device, count }),
    }
}

pub(super) fn open(device: DeviceSpec, index: usize) -> Result<Device, DeviceError> {
    find(device, index)?;
    Ok(Device::cuda(index))
}

/// The GPUs in the driver's order.
pub(super) fn list() -> Result<Vec<Accelerator>, DeviceError> {
    let all = 0..count(DeviceSpec::Cuda(0))?;
    Ok(all.map(driver::describe).collect())
}

mod driver {
    use std::ffi::{CStr, c_char};
    use std::sync::OnceLock;

    use libloading::Library;

    use crate::device::spec::{Accelerator, DeviceSpec};

    /// The driver's library; it stays loaded, as burn uses it too.
    fn library() -> Result<&'static Library, String> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        // SAFETY: the driver's library runs no code of ours when it loads.
        let load = || unsafe { Library::new("libcuda.so.1") }.map_err(reason);
        LIBRARY.get_or_init(load).as_ref().map_err(String::clone)
    }

    /// How many GPUs there are.
    pub(super) fn count() -> Result<usize, String> {
        type Init = unsafe extern "C" fn(u32) -> i32;
        type Count = unsafe extern "C" fn(*mut i32) -> i32;
        let library = library()?;
        // SAFETY: the two functions have these signatures in every version of the driver's interface (cuda.h: cuInit,
        // cuDeviceGetCount).
        unsafe {
            let init = library.get::<Init>(b"cuInit\0").map_err(reason)?;
            let get_count = library.get::<Count>(b"cuDeviceGetCount\0");
            let get_count = get_count.map_err(reason)?;
            let mut count = 0;
            for status in [init(0), get_count(&mut count)] {
                if status != 0 {
                    return Err(format!("the driver answers with error {status}"));
                }
            }
            Ok(usize::try_from(count).unwrap_or(0))
        }
    }

    /// One GPU; what the driver does not say stays open.
    pub(super) fn describe(index: usize) -> Accelerator {
        let device = i32::try_from(index).unwrap_or(i32::MAX);
        Accelerator {
            device: DeviceSpec::Cuda(index),
            name: name(device).unwrap_or_else(|| "an NVIDIA GPU".to_owned()),
            driver: version().unwrap_or_else(|| "CUDA of an unknown version".to_owned()),
            memory: memory(device),
        }
    }

    fn name(device: i32) -> Option<String> {
        type Name = unsafe extern "C" fn(*mut c_char, i32, i32) -> i32;
        let mut text = [0 as c_char; 256];
        // SAFETY: as in `count` (cuda.h: cuDeviceGetName); the driver writes at most the length it is given, and a zero
        // byte at the end.
        unsafe {
            let get = library().ok()?.get::<Name>(b"cuDeviceGetName\0").ok()?;
            let status = get(text.as_mut_ptr(), text.len() as i32 - 1, device);
            (status == 0).then(|| CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned())
        }
    }

    fn memory(device: i32) -> Option<u64> {
        type Memory = unsafe extern "C" fn(*mut usize, i32) -> i32;
        let mut bytes = 0;
        // SAFETY: as in `count` (cuda.h: cuDeviceTotalMem_v2).
        unsafe {
            let get = library().ok()?.get::<Memory>(b"cuDeviceTotalMem_v2\0");
            (get.ok()?(&mut bytes, device) == 0).then_some(bytes as u64)
        }
    }

    fn version() -> Option<String> {
        type Version = unsafe extern "C" fn(*mut i32) -> i32;
        let mut version = 0;
        // SAFETY: as in `count` (cuda.h: cuDriverGetVersion). 12040 is version 12.4.
        unsafe {
            let get = library().ok()?.get::<Version>(b"cuDriverGetVersion\0");
            let known = get.ok()?(&mut version) == 0;
            known.then(|| format!("CUDA {}.{}", version / 1000, version % 1000 / 10))
        }
    }

    /// The loader's error with what the system says of it.
    fn reason(error: libloading::Error) -> String {
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }
}

//! What a device holds and is asked to do, for tests and benchmarks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::Cube;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Device, Tensor};
use cubecl::MemoryScope;
use cubecl::logging::{LaunchObservation, LaunchObserver};

use crate::host::{self, CopyError};

/// Bytes that a device's allocator holds; it gives next to nothing back by itself, so it is about the most that was in use at
/// once since the last [`give_back`]. None of the CPU device.
pub fn reserved(device: &Device) -> Option<u64> {
    let of_device = primitive(device)?;
    let report = of_device.client.memory_report(MemoryScope::Device);
    Some(report.usage().bytes_reserved)
}

/// Gives memory that a device's allocator holds and nothing uses back to the device.
///
/// # Errors
/// [`CopyError`] where the device has failed.
pub fn give_back(device: &Device) -> Result<(), CopyError> {
    let Some(of_device) = primitive(device) else {
        return Ok(());
    };
    // What is on its way is waited for.
    host::values(Tensor::<1>::zeros([1], &device.clone().inner()))?;
    let given = of_device.client.memory_cleanup();
    given.map_err(|error| CopyError(error.to_string()))
}

/// A tensor of a device that is not the CPU's, which knows what computes there.
fn primitive(device: &Device) -> Option<FloatTensor<Cube>> {
    let device = device.clone().inner();
    if device == Device::flex() {
        return None;
    }
    Tensor::<1>::zeros([1], &device)
        .try_into_primitive::<Cube>()
        .ok()
}

/// The kernels that `work` launches on all devices but the CPU's, by name, and how often each. Others that work at the same
/// time are counted too.
pub fn launches<T>(work: impl FnOnce() -> T) -> (T, BTreeMap<&'static str, u64>) {
    let counts = Arc::new(Counts::default());
    let watching = LaunchObservation::new(counts.clone());
    let result = work();
    drop(watching);
    let counts = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
    (result, counts.clone())
}

#[derive(Default)]
struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl LaunchObserver for Counts {
    fn launched(&self, kernel: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kernel).or_default() += 1;
    }
}

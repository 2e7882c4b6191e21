//! What a device holds and is asked to do, for tests and benchmarks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::Cube;
use burn::tensor::{Device, Tensor};
use cubecl::MemoryScope;
use cubecl::logging::{LaunchObservation, LaunchObserver};

/// Bytes that a device's allocator holds; it gives next to nothing back while a process lives, so it is about the most that
/// was in use at once. None of the CPU device.
pub fn reserved(device: &Device) -> Option<u64> {
    let device = device.clone().inner();
    if device == Device::flex() {
        return None;
    }
    let tensor = Tensor::<1>::zeros([1], &device);
    let client = tensor.try_into_primitive::<Cube>().ok()?.client.clone();
    Some(
        client
            .memory_report(MemoryScope::Device)
            .usage()
            .bytes_reserved,
    )
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

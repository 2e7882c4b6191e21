//! What is copied between this process's memory and a device, and the count of it.
//!
//! All copies are made here, so that all are counted. What a kernel gets along with its launch (shapes, numbers that a
//! tensor is multiplied with) belongs to the launch and is not counted; nor is anything on the CPU device, where nothing
//! is copied.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::kind::Basic;
use burn::tensor::{DType, Device, Element, Int, Tensor, TensorCreationOptions, TensorData};

pub use crate::kernels::exp_in_place;

/// What a device has computed cannot be had: it ran out of memory, or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device does not hand over what it computed: {0}")]
pub struct CopyError(pub String);

/// Copies in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// How many.
    pub calls: u64,
    /// Bytes of all of them, as the device holds them.
    pub bytes: u64,
}

/// Copies between this process's memory and all devices but the CPU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// To a device.
    pub up: Copies,
    /// From a device.
    pub down: Copies,
}

impl Transfers {
    /// All since the process began; the difference of two counts is what was copied between them.
    pub fn so_far() -> Self {
        Self {
            up: UP.so_far(),
            down: DOWN.so_far(),
        }
    }
}

impl Sub for Transfers {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        let sub = |now: Copies, earlier: Copies| Copies {
            calls: now.calls - earlier.calls,
            bytes: now.bytes - earlier.bytes,
        };
        Self {
            up: sub(self.up, earlier.up),
            down: sub(self.down, earlier.down),
        }
    }
}

struct Counter {
    calls: AtomicU64,
    bytes: AtomicU64,
}

static UP: Counter = Counter::new();
static DOWN: Counter = Counter::new();

impl Counter {
    const fn new() -> Self {
        Self {
            calls: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    fn add(&self, bytes: usize) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn so_far(&self) -> Copies {
        Copies {
            calls: self.calls.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// Whether a tensor is in the memory of the CPU device.
pub fn on_host<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.device() == Device::flex()
}

/// A tensor of numbers, indices or flags, on the device and of the type that `place` says, as in [`Tensor::from_data`].
pub fn send<const D: usize, K: Basic>(
    data: TensorData,
    place: impl Into<TensorCreationOptions>,
) -> Tensor<D, K> {
    let place = place.into();
    let far = is_far(&place.device);
    // Of quantised numbers the type does not say how many bytes they take, and nothing converts them.
    let quantised = matches!(data.dtype(), DType::QFloat(_)).then(|| data.bytes().len());
    let tensor = Tensor::from_data(data, place);
    if far {
        UP.add(quantised.unwrap_or(tensor.shape().num_elements() * tensor.dtype().size()));
    }
    tensor
}

/// A tensor on another device; without a copy where it is there already.
pub fn bring<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    let (from, to) = (tensor.device().inner(), device.clone().inner());
    if from == to {
        return tensor;
    }
    let bytes = held_bytes(tensor.shape().num_elements(), tensor.dtype());
    for (counter, device) in [(&DOWN, &from), (&UP, &to)] {
        if is_far(device) {
            counter.add(bytes);
        }
    }
    tensor.to_device(&to)
}

/// Bytes of so many values. Of quantised ones the numbers are counted, not the scales.
fn held_bytes(values: usize, dtype: DType) -> usize {
    match dtype {
        DType::QFloat(scheme) => values * scheme.size_bits_value() / 8,
        _ => values * dtype.size(),
    }
}

/// Whether a device has a memory of its own.
fn is_far(device: &Device) -> bool {
    device.clone().inner() != Device::flex()
}

/// The values of a tensor, row by row, in 32 bits; without a copy where nothing else holds it.
///
/// # Errors
/// [`CopyError`] where the device has failed, for example for want of memory.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, CopyError> {
    let tensor = match tensor.is_autodiff() {
        true => tensor.inner(),
        false => tensor,
    };
    fetch(tensor)
}

/// The whole numbers of a tensor of 32 bits each without a sign, row by row.
///
/// # Errors
/// As [`values`].
pub fn words<const D: usize>(tensor: Tensor<D, Int>) -> Result<Vec<u32>, CopyError> {
    fetch(tensor)
}

fn fetch<const D: usize, K: Basic, E: Element>(tensor: Tensor<D, K>) -> Result<Vec<E>, CopyError> {
    if is_far(&tensor.device()) {
        DOWN.add(tensor.shape().num_elements() * tensor.dtype().size());
    }
    let failed = |error: &dyn std::fmt::Display| CopyError(error.to_string());
    let data = tensor
        .try_into_data_as::<E>()
        .map_err(|error| failed(&error))?;
    data.try_into_vec::<E>().map_err(|error| failed(&error))
}

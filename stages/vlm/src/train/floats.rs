//! Values read back from a device.

use burn::tensor::Tensor;
use dcsft_tensor::host::{self, CopyError};

use crate::train::error::TrainError;

/// Reads a tensor into memory; without a copy where nothing else holds it.
pub(crate) fn floats<const D: usize>(
    tensor: Tensor<D>,
    what: impl Fn() -> String,
) -> Result<Vec<f32>, TrainError> {
    host::values(tensor).map_err(|CopyError(problem)| TrainError::Device {
        what: what(),
        problem,
    })
}

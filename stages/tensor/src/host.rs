//! What comes from a device into this process's memory.

use burn::tensor::Tensor;

pub use crate::kernels::exp_in_place;
pub use crate::ops::on_host;

/// What a device has computed cannot be had: it ran out of memory, or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device does not hand over what it computed: {0}")]
pub struct CopyError(pub String);

/// The values of a tensor, row by row, in 32 bits; without a copy where nothing else holds it.
///
/// # Errors
/// [`CopyError`] where the device has failed, for example for want of memory.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, CopyError> {
    let tensor = match tensor.is_autodiff() {
        true => tensor.inner(),
        false => tensor,
    };
    let data = tensor
        .try_into_data_as::<f32>()
        .map_err(|error| CopyError(error.to_string()))?;
    data.try_into_vec::<f32>()
        .map_err(|error| CopyError(error.to_string()))
}

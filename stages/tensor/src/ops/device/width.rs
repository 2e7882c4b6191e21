//! How wide floats are.

use burn::tensor::{DType, FloatDType, Tensor};

/// In 32 bits.
pub(super) fn wide<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    typed(tensor.clone(), DType::F32)
}

/// In a type of floats; as it is where it has that.
pub(super) fn typed<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    match tensor.dtype() == dtype {
        true => tensor,
        false => tensor.cast(FloatDType::from(dtype)),
    }
}

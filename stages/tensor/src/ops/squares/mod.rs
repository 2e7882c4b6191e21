//! Sums of squares of whole tensors.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod kernel;

use burn::tensor::{DType, Tensor};

use super::composed;
use super::graph::plain;

/// Of each tensor the sum of the squares of all its numbers, in 32 bits; they are on one device. Each sum has a fixed order,
/// and no gradient goes through it.
///
/// # Panics
/// If there is none.
pub fn sums_of_squares(tensors: &[&Tensor<2>]) -> Tensor<1> {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if tensors.iter().all(|tensor| !crate::host::on_host(tensor)) && !tensors.is_empty() {
        return composed::sums_of_rows(kernel::parts(tensors));
    }
    let sum = |tensor: &&Tensor<2>| {
        let tensor = plain((*tensor).clone()).cast(DType::F32);
        composed::total(tensor.clone() * tensor)
    };
    Tensor::cat(tensors.iter().map(sum).collect(), 0)
}

//! Which weights of a model are held quantised: those of the linear layers that adapters can be on, in all module groups.
//! Embeddings, output heads, convolutions, norms and biases stay in the model's own number type.

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor};
use dcsft_tensor::params::ParamId;
use dcsft_tensor::quant::{Bits, check_sizes, quantised};
use dcsft_vlm::error::VlmError;

use crate::settings::Quantize;

/// What is quantised, and with how many bits.
pub(crate) struct Plan {
    bits: Option<Bits>,
    weights: BTreeSet<usize>,
}

impl Plan {
    /// Of a model with these linear layers: of each its name, its weight, and its inputs and outputs.
    ///
    /// # Errors
    /// [`VlmError::Config`] names a layer whose sizes are no whole blocks.
    pub(crate) fn of<'a>(
        layers: impl Iterator<Item = (&'a str, ParamId, [usize; 2])>,
        quantize: Quantize,
    ) -> Result<Self, VlmError> {
        let Some(bits) = quantize.bits() else {
            return Ok(Self::NOTHING);
        };
        let mut weights = BTreeSet::new();
        for (name, weight, sizes) in layers {
            check_sizes(sizes).map_err(|error| {
                VlmError::Config(format!(
                    "quantize: {quantize} does not fit this model: {name}: {error}; leave `quantize` out"
                ))
            })?;
            weights.insert(weight.0);
        }
        let bits = Some(bits);
        Ok(Self { bits, weights })
    }

    /// Of a model all of whose weights are in its own number type.
    pub(crate) const NOTHING: Self = Self {
        bits: None,
        weights: BTreeSet::new(),
    };

    /// Bits of the numbers of a weight; none where it is not quantised.
    pub(crate) fn bits(&self, id: ParamId) -> Option<Bits> {
        self.bits.filter(|_| self.weights.contains(&id.0))
    }

    /// Nothing is quantised.
    pub(crate) fn is_empty(&self) -> bool {
        self.bits.is_none()
    }
}

/// A weight of the name `name`, quantised.
///
/// # Errors
/// [`VlmError::Config`] names the weight and what of it cannot be quantised.
pub(crate) fn weight(
    name: &str,
    (values, shape): (&[f32], [usize; 2]),
    bits: Bits,
    device: &Device,
) -> Result<Tensor<2>, VlmError> {
    quantised(values, shape, bits, device)
        .map_err(|error| VlmError::Config(format!("{name}: {error}")))
}

//! A layer's weight: as it is, or quantised.

use burn::tensor::{DType, FloatDType, Tensor};

use super::super::{Flat, Input, new};
use crate::quant::dequantised;

/// The weight of a layer, `[in, out]`.
pub(in crate::ops) enum Weight {
    /// In 32 bits.
    Plain(Tensor<2>),
    /// Quantised, of a layer in this type.
    Quantised(Tensor<2>, DType),
}

/// As [`Weight`], as the backward pass needs it.
#[derive(Clone, Debug)]
#[cfg_attr(
    any(feature = "cuda", feature = "wgpu"),
    expect(clippy::large_enum_variant, reason = "there are as many as layers")
)]
pub(super) enum Held {
    Plain(Flat),
    Quantised(Tensor<2>, DType),
}

impl Weight {
    /// Inputs and outputs.
    pub(super) fn sizes(&self) -> [usize; 2] {
        match self {
            Self::Plain(weight) | Self::Quantised(weight, _) => weight.dims(),
        }
    }

    /// What is kept, and what stands in the graph: for a quantised weight, which has no gradient, an input that asks for
    /// none.
    pub(super) fn split(self) -> (Held, Input) {
        match self {
            Self::Plain(weight) => {
                let weight = Input::new(weight);
                (Held::Plain(weight.contiguous()), weight)
            }
            Self::Quantised(weight, dtype) => {
                let nothing = Input::Plain(new(vec![0.0], [1, 1]));
                (Held::Quantised(weight, dtype), nothing)
            }
        }
    }
}

impl Held {
    /// All values in 32 bits, in one piece of memory; rounded as the layer's type has them.
    pub(super) fn whole(&self) -> Flat {
        match self {
            Self::Plain(weight) => weight.clone(),
            Self::Quantised(weight, dtype) => {
                let rounded = dequantised(weight, *dtype);
                let wide = match dtype {
                    DType::F32 => rounded,
                    _ => rounded.cast(FloatDType::F32),
                };
                Input::new(wide).contiguous()
            }
        }
    }
}

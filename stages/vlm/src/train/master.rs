//! Exact 32-bit values of weights that a model holds in 16 bits.
//!
//! An update at a small learning rate is smaller than half a unit in the last place of a bf16 weight, so a weight that
//! is rounded after each update stays where it was. Optimisers of mixed-precision training therefore keep the weight in
//! 32 bits beside the model's (Micikevicius et al. 2018); here too. In this process's memory the 16 bits that the rounded
//! weight lacks are enough for that: two bytes a weight. On a device it is the 32-bit value itself.

use burn::tensor::{DType, Device, Tensor, TensorData};
use dcsft_tensor::host::send;
use half::bf16;

use crate::train::error::TrainError;
use crate::train::floats::floats;
use crate::train::home::Home;

/// What a weight's 32-bit value has beside the model's weight.
#[derive(Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "one a weight; a box would only move the largest"
)]
pub(crate) enum Master {
    /// Nothing: the weight has 32 bits.
    Own,
    /// Of each bf16 weight that is updated in this process, how far the bits of its value are from the rounded weight's.
    Low(Vec<i16>),
    /// The value itself, of a 16-bit weight that is updated on its device.
    Whole(Tensor<2>),
}

impl Master {
    /// Of a weight as it is: its value is what the model holds.
    pub(crate) fn of(value: &Tensor<2>, home: Home) -> Self {
        match (value.dtype(), home) {
            (DType::F32, _) => Self::Own,
            (DType::BF16, Home::Process) => Self::Low(vec![0; value.shape().num_elements()]),
            _ => Self::Whole(value.clone().inner().cast(DType::F32)),
        }
    }

    /// The 32-bit values of the model's weight `value`; without a copy where nothing else holds it.
    pub(crate) fn take_values(&self, value: Tensor<2>, name: &str) -> Result<Vec<f32>, TrainError> {
        let read = |tensor: Tensor<2>| floats(tensor, || name.to_owned());
        match self {
            Self::Own => read(value.inner()),
            Self::Low(low) => {
                let mut values = read(value.inner())?;
                join(&mut values, low);
                Ok(values)
            }
            Self::Whole(whole) => read(whole.clone()),
        }
    }

    /// Takes new 32-bit values and gives the model's weight for them.
    pub(crate) fn set(&mut self, values: Vec<f32>, place: &Place) -> Tensor<2> {
        let Place {
            shape,
            device,
            dtype,
        } = place;
        match self {
            Self::Own => send(TensorData::new(values, *shape), device),
            Self::Low(low) => {
                let rounded = split(&values, low);
                send(TensorData::new(rounded, *shape), (device, *dtype))
            }
            Self::Whole(whole) => {
                *whole = send(TensorData::new(values, *shape), device);
                whole.clone().cast(*dtype)
            }
        }
    }
}

/// Shape, device and type of a weight.
pub(crate) struct Place {
    shape: [usize; 2],
    device: Device,
    dtype: DType,
}

impl Place {
    pub(crate) fn of(value: &Tensor<2>) -> Self {
        Self {
            shape: value.dims(),
            device: value.device().inner(),
            dtype: value.dtype(),
        }
    }
}

/// Adds to rounded weights what their values have beside them.
pub(crate) fn join(values: &mut [f32], low: &[i16]) {
    for (value, &low) in values.iter_mut().zip(low) {
        *value = f32::from_bits(value.to_bits().wrapping_add_signed(i32::from(low)));
    }
}

/// Rounds values to bf16 and writes down what that leaves out. A value halfway between two goes to the larger one in
/// size, not to the even one: so the rest always fits 16 bits.
fn split(values: &[f32], low: &mut [i16]) -> Vec<bf16> {
    let split = |(&value, low): (&f32, &mut i16)| {
        let bits = value.to_bits();
        let high = bits.wrapping_add(0x8000) >> 16;
        // The low half of `bits`, as a number from -2^15 to 2^15 - 1.
        *low = bits as u16 as i16;
        bf16::from_bits(high as u16)
    };
    values.iter().zip(low).map(split).collect()
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::{join, split};

    #[test]
    fn a_rounded_weight_and_its_rest_are_the_value_to_the_bit() {
        let values: Vec<f32> = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1_8000]
            .into_iter()
            .flat_map(|low| {
                [
                    0x3f80_0000,
                    0xbf80_0000,
                    0x0000_0000,
                    0x7f7f_0000,
                    0x8001_0000,
                ]
                .map(|high| high + low)
            })
            .map(f32::from_bits)
            .filter(|value| value.is_finite())
            .collect();
        let mut low = vec![0; values.len()];
        let rounded = split(&values, &mut low);
        let mut joined: Vec<f32> = rounded.iter().map(|value| value.to_f32()).collect();
        for (rounded, value) in joined.iter().zip(&values) {
            let nearest = bf16::from_f32(*value).to_f32();
            let tie = value.to_bits() & 0xffff == 0x8000;
            assert!(
                tie || rounded.to_bits() == nearest.to_bits(),
                "{value} is {rounded}"
            );
        }
        join(&mut joined, &low);
        for (joined, value) in joined.iter().zip(&values) {
            assert_eq!(joined.to_bits(), value.to_bits());
        }
    }
}

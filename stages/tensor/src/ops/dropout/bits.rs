//! Which inputs stay, on a device.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::host::send;

/// Of each input a bit, 1 for those that stay, the lowest bit of a word first: `[words, 1]`.
#[derive(Clone, Debug)]
pub(super) struct Bits(pub(super) Tensor<2, Int>);

impl Bits {
    /// Inputs of a word.
    pub(super) const WORD: usize = 32;

    pub(super) fn send(dropped: &[u32], inputs: usize, device: &Device) -> Self {
        let mut words = vec![u32::MAX; inputs.div_ceil(Self::WORD)];
        for &index in dropped {
            words[index as usize / Self::WORD] &= !(1 << (index as usize % Self::WORD));
        }
        let count = words.len();
        Self(send(
            TensorData::new(words, [count, 1]),
            (device, DType::U32),
        ))
    }

    /// What each input is multiplied with.
    pub(super) fn factors(
        &self,
        [rows, width]: [usize; 2],
        factor: f64,
        dtype: DType,
    ) -> Tensor<2> {
        let device = self.0.device();
        let places = Tensor::<1, Int>::arange(0..Self::WORD as i64, (&device, DType::U32));
        let bits = self
            .0
            .clone()
            .bitwise_right_shift(places.reshape([1, Self::WORD]))
            .bitwise_and_scalar(1)
            .reshape([self.0.dims()[0] * Self::WORD])
            .narrow(0, 0, rows * width)
            .reshape([rows, width]);
        (bits.float() * factor).cast(dtype)
    }
}

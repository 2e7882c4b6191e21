//! Pixels as bytes, and as the numbers that a model's first layer takes.
//!
//! A device gets the bytes, and what each of them becomes, and makes the numbers itself: a byte goes up for each pixel and
//! channel, where a number of 32 bits would be four, and as often as a model repeats a picture.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod kernel;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::bf16;
use rayon::prelude::*;

use crate::host::send;

/// What each byte of each channel becomes.
pub type Levels = [[f32; 256]; 3];

/// What a value of a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Which of the row's bytes.
    pub byte: u32,
    /// Whose levels.
    pub channel: u8,
}

/// Rows of pixels, each a patch of a picture.
#[derive(Clone, Debug)]
pub struct Pixels {
    /// Row after row.
    pub bytes: Vec<u8>,
    /// Bytes of a row.
    pub width: usize,
    /// The values that a row becomes.
    pub columns: Vec<Column>,
    /// What the bytes become.
    pub levels: Arc<Levels>,
}

/// Values from which on they are worth sharing out among threads.
const SHARED_OUT: usize = 1 << 14;

impl Pixels {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.bytes.len() / self.width
    }

    /// Row by row the values: `[rows, columns]`.
    pub fn values(&self) -> Vec<f32> {
        self.each(|value| value)
    }

    fn each<T: Copy + Default + Send>(&self, make: impl Fn(f32) -> T + Sync) -> Vec<T> {
        let columns = self.columns.len().max(1);
        let mut values = vec![T::default(); self.rows() * self.columns.len()];
        values
            .par_chunks_mut(columns)
            .zip(self.bytes.par_chunks(self.width))
            .with_min_len(SHARED_OUT.div_ceil(columns))
            .for_each(|(values, bytes)| {
                for (value, column) in values.iter_mut().zip(&self.columns) {
                    let byte = bytes[column.byte as usize];
                    *value = make(self.levels[usize::from(column.channel)][usize::from(byte)]);
                }
            });
        values
    }

    /// The same on a device, in the type `dtype`.
    ///
    /// # Panics
    /// If the device lacks that type.
    pub fn on(&self, device: &Device, dtype: DType) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if device.clone().inner() != Device::flex() {
            let bytes = (&self.bytes[..], self.width);
            let columns = self.columns.iter();
            let columns: Vec<[u32; 2]> = columns
                .map(|column| [column.byte, u32::from(column.channel)])
                .collect();
            let place = (&device.clone().inner(), dtype);
            let values = kernel::make(bytes, &columns, &self.levels[..], place);
            return match device.is_autodiff() {
                true => values.autodiff(),
                false => values,
            };
        }
        let shape = [self.rows(), self.columns.len()];
        let values = match dtype {
            DType::BF16 => TensorData::new(self.each(bf16::from_f32), shape),
            _ => TensorData::new(self.values(), shape),
        };
        send(values, (device, dtype))
    }
}

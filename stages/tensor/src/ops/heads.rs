//! How the rows of attention are cut into heads, and the angles by which they are turned.

use std::sync::{Arc, OnceLock};

use burn::tensor::{DType, Device, Float, Tensor, TensorData};

use crate::host::send;

/// Heads of an attention layer. With fewer key heads than query heads, neighbouring query heads share one head of
/// keys and values (grouped-query attention, Ainslie et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads of queries.
    pub queries: usize,
    /// Heads of keys, and of values; divides `queries`.
    pub keys: usize,
}

impl Heads {
    /// As many heads of keys and values as of queries.
    pub fn all(heads: usize) -> Self {
        Self {
            queries: heads,
            keys: heads,
        }
    }

    /// Width of one head in packed rows of `row` values.
    pub fn width(self, row: usize) -> usize {
        row / (self.queries + 2 * self.keys)
    }

    /// Values in a packed row of queries, keys and values, with heads of `width` values.
    pub fn row(self, width: usize) -> usize {
        (self.queries + 2 * self.keys) * width
    }
}

/// The angles of rotary positions: cosines and sines, `[rows, half]` each, half a head's width in columns.
#[derive(Clone, Debug)]
pub struct Rotary {
    half: usize,
    cos: Arc<[f32]>,
    sin: Arc<[f32]>,
    tables: Arc<OnceLock<Tables>>,
}

/// Cosines and sines on a device, `[rows, 1, half]` each.
#[derive(Debug)]
struct Tables {
    device: Device,
    dtype: DType,
    pair: [Tensor<3>; 2],
}

impl Rotary {
    /// From the angles, `[rows, half]`, in radians.
    pub fn new(angles: &[f32], half: usize) -> Self {
        Self {
            half,
            cos: angles.iter().map(|&angle| libm::cosf(angle)).collect(),
            sin: angles.iter().map(|&angle| libm::sinf(angle)).collect(),
            tables: Arc::default(),
        }
    }

    /// Half of a head's width.
    pub fn half(&self) -> usize {
        self.half
    }

    /// Cosines, row after row.
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// Sines, row after row.
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// Cosines and sines on `device`, `[rows, 1, half]` each. They are brought there once: all layers turn by the same
    /// angles.
    pub(super) fn tables(&self, device: &Device, dtype: DType) -> [Tensor<3>; 2] {
        let table = |values: &[f32]| -> Tensor<3> {
            let shape = [values.len() / self.half, 1, self.half];
            send::<3, Float>(TensorData::new(values.to_vec(), shape), device).cast(dtype)
        };
        let new = || [table(&self.cos), table(&self.sin)];
        let tables = self.tables.get_or_init(|| Tables {
            device: device.clone(),
            dtype,
            pair: new(),
        });
        let same = tables.device == *device && tables.device.is_autodiff() == device.is_autodiff();
        match same && tables.dtype == dtype {
            true => tables.pair.clone(),
            false => new(),
        }
    }

    /// The rows `indices`, in that order.
    pub fn take_rows(&self, indices: &[u32]) -> Self {
        let take = |values: &[f32]| {
            indices
                .iter()
                .flat_map(|&row| &values[row as usize * self.half..][..self.half])
                .copied()
                .collect()
        };
        Self {
            half: self.half,
            cos: take(&self.cos),
            sin: take(&self.sin),
            tables: Arc::default(),
        }
    }
}

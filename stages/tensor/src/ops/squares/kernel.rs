//! A launch for a tensor: its cubes sum a part each.

use burn::tensor::{DType, Tensor as BurnTensor};
use cubecl::prelude::*;

use crate::ops::cube::{Fold, UNITS, by_dtype, floats, over_units};
use crate::ops::graph::plain;

/// Cubes that share a tensor.
const PARTS: usize = 64;

/// Of each tensor the sums of its parts, `[tensors, PARTS]`; they are on one device.
pub(super) fn parts(tensors: &[&BurnTensor<2>]) -> BurnTensor<2> {
    let device = plain(tensors[0].clone()).device();
    let parts = BurnTensor::<2>::empty([tensors.len(), PARTS], (&device, DType::F32));
    let out = floats(&parts);
    for (index, tensor) in tensors.iter().enumerate() {
        let tensor = floats(&plain((*tensor).clone()));
        let client = tensor.client.clone();
        by_dtype!(tensor.dtype, F => squares_kernel::launch::<F>(
            &client,
            CubeCount::Static(PARTS as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            tensor.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            index,
            UNITS as usize,
        ));
    }
    parts
}

/// `x`: `[rows, columns]`; `out`: `[tensors, PARTS]`, of which row `index` is written.
#[cube(launch)]
fn squares_kernel<F: Float>(
    x: &Tensor<F>,
    out: &mut Tensor<f32>,
    index: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS_X as usize;
    let part = CUBE_POS_X as usize;
    let columns = x.shape(1);
    let count = x.shape(0) * columns;
    let mut shared = Shared::<[f32]>::new_slice(units);
    let mut sum = f32::new(0.0);
    let mut at = part * units + unit;
    while at < count {
        let (row, column) = (at / columns, at % columns);
        let value = f32::cast_from(x[row * x.stride(0) + column * x.stride(1)]);
        sum += value * value;
        at += units * PARTS;
    }
    let sum = over_units::<f32>(sum, unit, &mut shared, units, Fold::Sum);
    if unit == 0 {
        let place = index * out.stride(0) + part * out.stride(1);
        out[place] = sum;
    }
}

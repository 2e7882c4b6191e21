//! Rotary positions: a unit works on one value.

use burn::tensor::Tensor as BurnTensor;
use cubecl::prelude::*;

use crate::ops::cube::{UNITS, by_dtype, cubes_for, floats};

/// Turns the first `heads` heads of each row by the angles whose cosines and sines are `[rows, 1, half]`, or back.
pub(in super::super) fn rotate(
    x: &BurnTensor<2>,
    [cos, sin]: &[BurnTensor<3>; 2],
    heads: usize,
    back: bool,
) -> BurnTensor<2> {
    let out = BurnTensor::<2>::empty(x.dims(), (&x.device(), x.dtype()));
    let count = x.shape().num_elements();
    if count == 0 {
        return out;
    }
    let (dtype, table) = (x.dtype(), cos.dtype());
    let half = cos.dims()[2];
    let x = floats(x);
    let client = x.client.clone();
    by_dtype!(dtype, F => by_dtype!(table, T => rotary_kernel::launch::<F, T>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        x.into_tensor_arg(),
        floats(cos).into_tensor_arg(),
        floats(sin).into_tensor_arg(),
        floats(&out).into_tensor_arg(),
        heads * 2 * half,
        half,
        if back { -1.0 } else { 1.0 },
    )));
    out
}

/// `x`, `out`: `[rows, width]`, of which the first `turned` columns are heads of twice `half`; `cos`, `sin`:
/// `[rows, 1, half]`.
#[cube(launch)]
fn rotary_kernel<F: Float, T: Float>(
    x: &Tensor<F>,
    cos: &Tensor<T>,
    sin: &Tensor<T>,
    out: &mut Tensor<F>,
    turned: usize,
    half: usize,
    direction: f32,
) {
    let columns = x.shape(1);
    let (row, column) = (ABSOLUTE_POS / columns, ABSOLUTE_POS % columns);
    if row < x.shape(0) {
        let from = row * x.stride(0);
        let step = x.stride(1);
        let own = x[from + column * step];
        let place = row * out.stride(0) + column * out.stride(1);
        if column < turned {
            let inside = column % (2 * half);
            let angle = inside % half;
            let cosine = f32::cast_from(cos[row * cos.stride(0) + angle * cos.stride(2)]);
            let sine = f32::cast_from(sin[row * sin.stride(0) + angle * sin.stride(2)]) * direction;
            let value = f32::cast_from(own) * cosine;
            if inside < half {
                let other = f32::cast_from(x[from + (column + half) * step]);
                out[place] = F::cast_from(value - other * sine);
            } else {
                let other = f32::cast_from(x[from + (column - half) * step]);
                out[place] = F::cast_from(value + other * sine);
            }
        } else {
            out[place] = own;
        }
    }
}

//! What queries get from two sets of keys, put together; and what the gradient of that has to know of it.

use burn::backend::Cube;
use burn::tensor::{DType, Tensor as BurnTensor};
use cubecl::prelude::*;

use crate::ops::cube::{UNITS, alone, by_dtype, cubes_for, floats};

/// What is put together: what queries got, `[queries, heads * width]`, and the log of the sum of their weights,
/// `[queries, heads]` in 32 bits; of all keys together the same.
pub(in super::super) fn mixed(
    [out, log_sum]: [BurnTensor<2>; 2],
    other: [&BurnTensor<2>; 2],
) -> [BurnTensor<2>; 2] {
    let all = BurnTensor::<2>::empty(log_sum.dims(), (&log_sum.device(), DType::F32));
    let count = out.shape().num_elements();
    if count == 0 {
        return [out, log_sum];
    }
    let dtype = out.dtype();
    let out = alone(out);
    let client = out.client.clone();
    by_dtype!(dtype, F => mixed_kernel::launch::<F>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        out.clone().into_tensor_arg(),
        floats(&log_sum).into_tensor_arg(),
        floats(other[0]).into_tensor_arg(),
        floats(other[1]).into_tensor_arg(),
        floats(&all).into_tensor_arg(),
    ));
    [BurnTensor::from_primitive::<Cube>(out), all]
}

/// Of each row and head the product of two rows, `[rows, heads]` in 32 bits.
pub(in super::super) fn along(a: &BurnTensor<2>, b: &BurnTensor<2>, heads: usize) -> BurnTensor<2> {
    let rows = a.dims()[0];
    let out = BurnTensor::<2>::empty([rows, heads], (&a.device(), DType::F32));
    let count = rows * heads;
    if count == 0 {
        return out;
    }
    let dtype = a.dtype();
    let a = floats(a);
    let client = a.client.clone();
    by_dtype!(dtype, F => along_kernel::launch::<F>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        a.into_tensor_arg(),
        floats(b).into_tensor_arg(),
        floats(&out).into_tensor_arg(),
    ));
    out
}

/// A unit works on a value: its shares are those of the two sums in their sum.
#[cube(launch)]
fn mixed_kernel<F: Float>(
    out: &mut Tensor<F>,
    log_sum: &Tensor<f32>,
    other: &Tensor<F>,
    other_sum: &Tensor<f32>,
    all: &mut Tensor<f32>,
) {
    let (columns, heads) = (out.shape(1), all.shape(1));
    let width = columns / heads;
    let (row, column) = (ABSOLUTE_POS / columns, ABSOLUTE_POS % columns);
    if row < out.shape(0) {
        let head = column / width;
        let own = log_sum[row * log_sum.stride(0) + head * log_sum.stride(1)];
        let others = other_sum[row * other_sum.stride(0) + head * other_sum.stride(1)];
        let mut most = own;
        if others > own {
            most = others;
        }
        let sum = most + ((own - most).exp() + (others - most).exp()).ln();
        let place = row * out.stride(0) + column * out.stride(1);
        let from = row * other.stride(0) + column * other.stride(1);
        let value = f32::cast_from(out[place]) * (own - sum).exp();
        let more = f32::cast_from(other[from]) * (others - sum).exp();
        out[place] = F::cast_from(value + more);
        if column % width == 0 {
            let place = row * all.stride(0) + head * all.stride(1);
            all[place] = sum;
        }
    }
}

/// A unit works on a head of a row.
#[cube(launch)]
fn along_kernel<F: Float>(a: &Tensor<F>, b: &Tensor<F>, out: &mut Tensor<f32>) {
    let heads = out.shape(1);
    let width = a.shape(1) / heads;
    let (row, head) = (ABSOLUTE_POS / heads, ABSOLUTE_POS % heads);
    if row < out.shape(0) {
        let mut sum = f32::new(0.0);
        for column in 0..width {
            let at = head * width + column;
            let x = f32::cast_from(a[row * a.stride(0) + at * a.stride(1)]);
            sum += x * f32::cast_from(b[row * b.stride(0) + at * b.stride(1)]);
        }
        let place = row * out.stride(0) + head * out.stride(1);
        out[place] = sum;
    }
}

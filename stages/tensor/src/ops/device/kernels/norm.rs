//! Normalisation: a cube works on one row.

use burn::tensor::{DType, Device, Tensor as BurnTensor};
use cubecl::prelude::*;

use crate::ops::cube::{Fold, UNITS, by_dtype, cubes, floats, over_units};

/// The normalised rows, and the root of each one's mean square, `[rows, 1]`.
pub(in super::super) fn rms_norm(
    x: &BurnTensor<2>,
    scale: &BurnTensor<2>,
    epsilon: f64,
) -> [BurnTensor<2>; 2] {
    let [out, _, root] = norm(x, [scale, scale], epsilon, false);
    [out, root]
}

/// The normalised rows, and mean and standard deviation of each, `[rows, 1]`.
pub(in super::super) fn layer_norm(
    x: &BurnTensor<2>,
    weights: [&BurnTensor<2>; 2],
    epsilon: f64,
) -> [BurnTensor<2>; 3] {
    norm(x, weights, epsilon, true)
}

fn norm(
    x: &BurnTensor<2>,
    [scale, shift]: [&BurnTensor<2>; 2],
    epsilon: f64,
    centred: bool,
) -> [BurnTensor<2>; 3] {
    let ([rows, width], dtype, device) = (x.dims(), x.dtype(), x.device());
    let new = |width: usize, dtype: DType, device: &Device| {
        BurnTensor::<2>::empty([rows, width], (device, dtype))
    };
    let out = new(width, dtype, &device);
    let [mean, root] = [1, 1].map(|width| new(width, DType::F32, &device));
    if rows == 0 {
        return [out, mean, root];
    }
    let weight = |tensor: &BurnTensor<2>| floats(&tensor.clone().cast(dtype));
    let x = floats(x);
    let client = x.client.clone();
    by_dtype!(dtype, F => norm_kernel::launch::<F>(
        &client,
        cubes(rows),
        CubeDim::new_1d(UNITS),
        x.into_tensor_arg(),
        weight(scale).into_tensor_arg(),
        weight(shift).into_tensor_arg(),
        floats(&out).into_tensor_arg(),
        floats(&mean).into_tensor_arg(),
        floats(&root).into_tensor_arg(),
        epsilon as f32,
        UNITS as usize,
        centred,
    ));
    [out, mean, root]
}

/// `x`, `out`: `[rows, width]`; `scale`, `shift`: `[1, width]`; `mean`, `root`: `[rows, 1]`, without gaps. What is not `centred` has the
/// mean 0, and no shift; it is rounded before it is scaled, as Transformers' norms are.
#[cube(launch)]
fn norm_kernel<F: Float>(
    x: &Tensor<F>,
    scale: &Tensor<F>,
    shift: &Tensor<F>,
    out: &mut Tensor<F>,
    mean: &mut Tensor<f32>,
    root: &mut Tensor<f32>,
    epsilon: f32,
    #[comptime] units: usize,
    #[comptime] centred: bool,
) {
    let unit = UNIT_POS_X as usize;
    let (rows, width) = (x.shape(0), x.shape(1));
    let cube = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize;
    // The cubes that a launch has too many do the last row once more.
    let row = if cube < rows { cube } else { rows - 1 };
    let from = row * x.stride(0);
    let step = x.stride(1);
    let count = f32::cast_from(width as u32);
    let mut shared = Shared::<[f32]>::new_slice(units);

    let mut middle = f32::new(0.0);
    if comptime!(centred) {
        let mut sum = f32::new(0.0);
        let mut at = unit;
        while at < width {
            sum += f32::cast_from(x[from + at * step]);
            at += units;
        }
        middle = over_units::<f32>(sum, unit, &mut shared, units, Fold::Sum) / count;
    }
    let mut squares = f32::new(0.0);
    let mut at = unit;
    while at < width {
        let value = f32::cast_from(x[from + at * step]) - middle;
        squares += value * value;
        at += units;
    }
    let total = over_units::<f32>(squares, unit, &mut shared, units, Fold::Sum);
    let deviation = (total / count + epsilon).sqrt();
    let mut at = unit;
    while at < width {
        let normal = (f32::cast_from(x[from + at * step]) - middle) / deviation;
        let factor = scale[at * scale.stride(1)];
        let place = row * out.stride(0) + at * out.stride(1);
        if comptime!(centred) {
            let moved = f32::cast_from(shift[at * shift.stride(1)]);
            out[place] = F::cast_from(normal * f32::cast_from(factor) + moved);
        } else {
            out[place] = F::cast_from(normal) * factor;
        }
        at += units;
    }
    if unit == 0 {
        mean[row] = middle;
        root[row] = deviation;
    }
}

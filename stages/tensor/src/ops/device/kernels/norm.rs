//! Normalisation: a cube works on one row.

use burn::tensor::{DType, Device, Tensor as BurnTensor};
use cubecl::prelude::*;

use crate::ops::cube::{Fold, UNITS, by_dtype, cube_index, cubes, floats, over_units};

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
    let cube = cube_index();
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

/// The gradient of the rows from that of what came of them. Rows were centred where there is a `mean`; `root` is the
/// deviation, or the root of the mean square, `[rows, 1]` both.
pub(in super::super) fn norm_gradient(
    x: &BurnTensor<2>,
    scale: &BurnTensor<2>,
    grad: &BurnTensor<2>,
    mean: Option<&BurnTensor<2>>,
    root: &BurnTensor<2>,
) -> BurnTensor<2> {
    let dtype = x.dtype();
    let out = BurnTensor::<2>::empty(x.dims(), (&x.device(), dtype));
    let rows = x.dims()[0];
    if rows == 0 {
        return out;
    }
    let scale = floats(&scale.clone().cast(dtype));
    let client = scale.client.clone();
    by_dtype!(dtype, F => gradient_kernel::launch::<F>(
        &client,
        cubes(rows),
        CubeDim::new_1d(UNITS),
        floats(x).into_tensor_arg(),
        scale.into_tensor_arg(),
        floats(grad).into_tensor_arg(),
        floats(mean.unwrap_or(root)).into_tensor_arg(),
        floats(root).into_tensor_arg(),
        floats(&out).into_tensor_arg(),
        UNITS as usize,
        mean.is_some(),
    ));
    out
}

/// `x`, `grad`, `out`: `[rows, width]`; `scale`: `[1, width]`; `mean`, `root`: `[rows, 1]`.
#[cube(launch)]
fn gradient_kernel<F: Float>(
    x: &Tensor<F>,
    scale: &Tensor<F>,
    grad: &Tensor<F>,
    mean: &Tensor<f32>,
    root: &Tensor<f32>,
    out: &mut Tensor<F>,
    #[comptime] units: usize,
    #[comptime] centred: bool,
) {
    let unit = UNIT_POS_X as usize;
    let (rows, width) = (x.shape(0), x.shape(1));
    let cube = cube_index();
    // The cubes that a launch has too many do the last row once more.
    let row = if cube < rows { cube } else { rows - 1 };
    let count = f32::cast_from(width as u32);
    let (from, from_grad) = (row * x.stride(0), row * grad.stride(0));
    let deviation = root[row * root.stride(0)];
    let mut middle = f32::new(0.0);
    if comptime!(centred) {
        middle = mean[row * mean.stride(0)];
    }
    let mut shared = Shared::<[f32]>::new_slice(units);

    let mut along = f32::new(0.0);
    let mut sum = f32::new(0.0);
    let mut at = unit;
    while at < width {
        let normal = (f32::cast_from(x[from + at * x.stride(1)]) - middle) / deviation;
        let inner = f32::cast_from(grad[from_grad + at * grad.stride(1)])
            * f32::cast_from(scale[at * scale.stride(1)]);
        along += inner * normal;
        sum += inner;
        at += units;
    }
    let along = over_units::<f32>(along, unit, &mut shared, units, Fold::Sum) / count;
    let mut lift = f32::new(0.0);
    if comptime!(centred) {
        lift = over_units::<f32>(sum, unit, &mut shared, units, Fold::Sum) / count;
    }
    let mut at = unit;
    while at < width {
        let normal = (f32::cast_from(x[from + at * x.stride(1)]) - middle) / deviation;
        let inner = f32::cast_from(grad[from_grad + at * grad.stride(1)])
            * f32::cast_from(scale[at * scale.stride(1)]);
        let place = row * out.stride(0) + at * out.stride(1);
        out[place] = F::cast_from((inner - lift - normal * along) / deviation);
        at += units;
    }
}

//! Layer and root-mean-square normalisation.

use multiversion::multiversion;

use super::math::{sum_of_squares, sum_zip};

/// `(mean, 1 / sqrt(variance + epsilon))` of a row.
#[inline(always)]
fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let per_value = 1.0 / row.len() as f32;
    let mean = sum_zip(row, row, |sum, value, _| sum + value) * per_value;
    let variance = sum_zip(row, row, |sum, value, _| {
        let centred = value - mean;
        centred.mul_add(centred, sum)
    });
    (mean, 1.0 / (variance * per_value + epsilon).sqrt())
}

/// Normalises each row of `x` and applies `scale` and `shift`, whose length is the rows' width.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn layer_norm(x: &[f32], scale: &[f32], shift: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = scale.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let (mean, inverse) = moments(x, epsilon);
        for (((out, &x), &scale), &shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
            *out = ((x - mean) * inverse).mul_add(scale, shift);
        }
    }
}

/// The gradient of the input from the one of the output; adds to `scale_grad` and `shift_grad` if they are
/// asked for.
///
/// With n the normalised row and g = grad * scale: dx = (g - mean(g) - n mean(g n)) / sqrt(variance + epsilon).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn layer_norm_backward(
    x: &[f32],
    scale: &[f32],
    epsilon: f32,
    grad: &[f32],
    out: &mut [f32],
    mut affine: Option<(&mut [f32], &mut [f32])>,
) {
    let width = scale.len();
    let per_value = 1.0 / width as f32;
    let mut normed = vec![0f32; width];
    let mut scaled = vec![0f32; width];
    let rows = x
        .chunks_exact(width)
        .zip(grad.chunks_exact(width))
        .zip(out.chunks_exact_mut(width));
    for ((x, grad), out) in rows {
        let (mean, inverse) = moments(x, epsilon);
        for i in 0..width {
            normed[i] = (x[i] - mean) * inverse;
            scaled[i] = grad[i] * scale[i];
        }
        let mean_grad = sum_zip(&scaled, &scaled, |sum, g, _| sum + g) * per_value;
        let mean_product = sum_zip(&scaled, &normed, |sum, g, n| g.mul_add(n, sum)) * per_value;
        for i in 0..width {
            out[i] = (scaled[i] - mean_grad - normed[i] * mean_product) * inverse;
        }
        if let Some((scale_grad, shift_grad)) = &mut affine {
            for i in 0..width {
                scale_grad[i] = grad[i].mul_add(normed[i], scale_grad[i]);
                shift_grad[i] += grad[i];
            }
        }
    }
}

/// `1 / sqrt(mean square + epsilon)` of a row.
#[inline(always)]
fn inverse_rms(row: &[f32], epsilon: f32) -> f32 {
    let squares = sum_of_squares(row);
    1.0 / (squares / row.len() as f32 + epsilon).sqrt()
}

/// Divides each row of `x` by its root mean square and applies `scale`, whose length is the rows' width.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn rms_norm(x: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = scale.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let inverse = inverse_rms(x, epsilon);
        for ((out, &x), &scale) in out.iter_mut().zip(x).zip(scale) {
            *out = x * inverse * scale;
        }
    }
}

/// The gradient of the input from the one of the output; adds to `scale_grad` if it is asked for.
///
/// With n the normalised row and g = grad * scale: dx = (g - n mean(g n)) / root mean square.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn rms_norm_backward(
    x: &[f32],
    scale: &[f32],
    epsilon: f32,
    grad: &[f32],
    out: &mut [f32],
    mut scale_grad: Option<&mut [f32]>,
) {
    let width = scale.len();
    let mut normed = vec![0f32; width];
    let mut scaled = vec![0f32; width];
    let rows = x
        .chunks_exact(width)
        .zip(grad.chunks_exact(width))
        .zip(out.chunks_exact_mut(width));
    for ((x, grad), out) in rows {
        let inverse = inverse_rms(x, epsilon);
        for i in 0..width {
            normed[i] = x[i] * inverse;
            scaled[i] = grad[i] * scale[i];
        }
        let mean = sum_zip(&scaled, &normed, |sum, g, n| g.mul_add(n, sum)) / width as f32;
        for i in 0..width {
            out[i] = (scaled[i] - normed[i] * mean) * inverse;
        }
        if let Some(sum) = &mut scale_grad {
            for i in 0..width {
                sum[i] = grad[i].mul_add(normed[i], sum[i]);
            }
        }
    }
}

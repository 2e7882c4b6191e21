//! SwiGLU: `silu(gate) * up` with `silu(x) = x / (1 + exp(-x))`.

use multiversion::multiversion;

use super::math::exp;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Writes `silu(gate) * up`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// Writes the gradients of both factors from the one of the result.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn swiglu_backward(
    gate: &[f32],
    up: &[f32],
    grad: &[f32],
    gate_grad: &mut [f32],
    up_grad: &mut [f32],
) {
    for i in 0..grad.len() {
        let sigmoid = sigmoid(gate[i]);
        let silu = gate[i] * sigmoid;
        up_grad[i] = grad[i] * silu;
        gate_grad[i] = grad[i] * up[i] * sigmoid * (1.0 + gate[i] - silu);
    }
}

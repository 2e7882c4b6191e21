//! Rotary positions: pairs of a head's values turned by an angle.

use multiversion::multiversion;

/// Turns the first `heads` heads, of twice `half` values each, of rows of `width` values in place.
///
/// `cos` and `sin`: `[rows, half]`; `sign` -1 turns back.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn rotate(
    rows: &mut [f32],
    width: usize,
    heads: usize,
    half: usize,
    cos: &[f32],
    sin: &[f32],
    sign: f32,
) {
    let tables = cos.chunks_exact(half).zip(sin.chunks_exact(half));
    for (row, (cos, sin)) in rows.chunks_exact_mut(width).zip(tables) {
        for head in row[..heads * 2 * half].chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b, sin) = (first[i], second[i], sin[i] * sign);
                first[i] = a * cos[i] - b * sin;
                second[i] = b * cos[i] + a * sin;
            }
        }
    }
}

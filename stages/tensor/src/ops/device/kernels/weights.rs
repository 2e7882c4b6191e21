//! Scores of a row to weights, by the units of a cube: the first `count` of them from `from` on, each `step` behind the one
//! before, multiplied with `scale`. What only reads takes them as the kernel has them, which writes.

use cubecl::prelude::*;

/// The largest that a unit sees, or `most`.
#[cube]
pub(super) fn largest<F: Float>(
    scores: &mut Tensor<F>,
    from: usize,
    step: usize,
    count: usize,
    scale: f32,
    most: f32,
    #[comptime] units: usize,
) -> f32 {
    let mut most = most;
    let mut at = UNIT_POS_X as usize;
    while at < count {
        let score = f32::cast_from(scores[from + at * step]) * scale;
        if score > most {
            most = score;
        }
        at += units;
    }
    most
}

/// What a unit's weights add to `so_far`, `most` being the row's largest score.
#[cube]
pub(super) fn sum<F: Float>(
    scores: &mut Tensor<F>,
    from: usize,
    step: usize,
    count: usize,
    scale: f32,
    most: f32,
    so_far: f32,
    #[comptime] units: usize,
) -> f32 {
    let mut sum = so_far;
    let mut at = UNIT_POS_X as usize;
    while at < count {
        sum += (f32::cast_from(scores[from + at * step]) * scale - most).exp();
        at += units;
    }
    sum
}

/// Puts weights in the place of scores, and 0 in that of all others up to `all`.
#[cube]
pub(super) fn put<F: Float>(
    scores: &mut Tensor<F>,
    from: usize,
    step: usize,
    count: usize,
    all: usize,
    scale: f32,
    most: f32,
    sum: f32,
    #[comptime] units: usize,
) {
    let mut at = UNIT_POS_X as usize;
    while at < all {
        let mut weight = f32::new(0.0);
        if at < count {
            weight = (f32::cast_from(scores[from + at * step]) * scale - most).exp() / sum;
        }
        scores[from + at * step] = F::cast_from(weight);
        at += units;
    }
}

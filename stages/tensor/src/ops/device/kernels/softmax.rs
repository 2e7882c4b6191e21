//! The softmax of a block of attention's scores, and its gradient, both in place.

use burn::backend::Cube;
use burn::tensor::{DType, Int, Tensor as BurnTensor};
use cubecl::prelude::*;

use super::weights::{largest, put, sum};
use crate::ops::cube::{Fold, UNITS, alone, by_dtype, cubes, floats, integers, over_units};

/// Which keys the queries of a block see.
pub(in super::super) struct Sees<'a> {
    /// How many, from the first on, `[groups or 1, queries]`: one row where all groups are alike.
    pub(in super::super) counts: &'a BurnTensor<2, Int>,
    /// Where the block begins in it.
    pub(in super::super) group: usize,
    pub(in super::super) query: usize,
    /// Queries of the block.
    pub(in super::super) queries: usize,
}

/// Scores as their product gives them, `[groups, key heads, heads * queries, keys]`, to weights of keys that are seen, and
/// the log of the sum of each row's, `[groups, key heads, heads * queries, 1]` in 32 bits.
pub(in super::super) fn softmax(
    scores: BurnTensor<4>,
    sees: &Sees<'_>,
    scale: f64,
) -> [BurnTensor<4>; 2] {
    let [groups, heads, rows, keys] = scores.dims();
    let dtype = scores.dtype();
    let log_sum = [groups, heads, rows, 1];
    let log_sum = BurnTensor::<4>::empty(log_sum, (&scores.device(), DType::F32));
    if groups * heads * rows == 0 {
        return [scores, log_sum];
    }
    let (scores, log_sum) = (alone(scores), floats(&log_sum));
    let client = scores.client.clone();
    let units = (keys as u32).next_power_of_two().clamp(UNITS / 8, UNITS);
    by_dtype!(dtype, F => softmax_kernel::launch::<F>(
        &client,
        cubes(groups * heads * rows),
        CubeDim::new_1d(units),
        scores.clone().into_tensor_arg(),
        integers(sees.counts).into_tensor_arg(),
        log_sum.clone().into_tensor_arg(),
        sees.group,
        sees.query,
        sees.queries,
        scale as f32,
        units as usize,
    ));
    [scores, log_sum].map(BurnTensor::from_primitive::<Cube>)
}

/// From scores as their product gives them, and the gradients of weights: weights and the gradients of the scores.
/// `log_sum` and `along`, `[groups, key heads, heads * queries, 1]` in 32 bits, are the log of the sum of a row's weights,
/// and what the gradients of its weights come to, each times its weight.
pub(in super::super) fn softmax_gradient(
    [scores, of_weights]: [BurnTensor<4>; 2],
    [log_sum, along]: [&BurnTensor<4>; 2],
    sees: &Sees<'_>,
    scale: f64,
) -> [BurnTensor<4>; 2] {
    let count = scores.shape().num_elements();
    if count == 0 {
        return [of_weights, scores];
    }
    let dtype = scores.dtype();
    let [scores, of_weights] = [scores, of_weights].map(alone);
    let client = scores.client.clone();
    by_dtype!(dtype, F => gradient_kernel::launch::<F>(
        &client,
        cubes(count.div_ceil(UNITS as usize)),
        CubeDim::new_1d(UNITS),
        scores.clone().into_tensor_arg(),
        of_weights.clone().into_tensor_arg(),
        floats(log_sum).into_tensor_arg(),
        floats(along).into_tensor_arg(),
        integers(sees.counts).into_tensor_arg(),
        sees.group,
        sees.query,
        sees.queries,
        scale as f32,
    ));
    [of_weights, scores].map(BurnTensor::from_primitive::<Cube>)
}

/// How many keys a row of a block sees.
#[cube]
fn seen(
    counts: &Tensor<i32>,
    group: usize,
    row: usize,
    first_group: usize,
    first_query: usize,
    queries: usize,
) -> usize {
    let mut at = first_group + group;
    if counts.shape(0) == 1 {
        at = 0;
    }
    let query = first_query + row % queries;
    counts[at * counts.stride(0) + query * counts.stride(1)] as usize
}

/// A cube works on a row. `scores`: `[groups, key heads, rows, keys]`; `log_sum`: `[groups, key heads, rows, 1]`, without
/// gaps.
#[cube(launch)]
fn softmax_kernel<F: Float>(
    scores: &mut Tensor<F>,
    counts: &Tensor<i32>,
    log_sum: &mut Tensor<f32>,
    first_group: usize,
    first_query: usize,
    queries: usize,
    scale: f32,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS_X as usize;
    let (heads, rows, keys) = (scores.shape(1), scores.shape(2), scores.shape(3));
    let all = scores.shape(0) * heads * rows;
    let cube = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize;
    // The cubes that a launch has too many write nothing.
    let place = if cube < all { cube } else { all - 1 };
    let (head, row) = (place / rows, place % rows);
    let group = head / heads;
    let count = seen(counts, group, row, first_group, first_query, queries);
    let from =
        group * scores.stride(0) + (head % heads) * scores.stride(1) + row * scores.stride(2);
    let step = scores.stride(3);
    let mut shared = Shared::<[f32]>::new_slice(units);

    let most = f32::new(f32::MIN);
    let most = largest::<F>(scores, from, step, count, scale, most, units);
    let most = over_units::<f32>(most, unit, &mut shared, units, Fold::Most);
    let none = f32::new(0.0);
    let sum = sum::<F>(scores, from, step, count, scale, most, none, units);
    let sum = over_units::<f32>(sum, unit, &mut shared, units, Fold::Sum);
    if cube < all {
        put::<F>(scores, from, step, count, keys, scale, most, sum, units);
        if unit == 0 {
            let mut log = most;
            if count > 0 {
                log += sum.ln();
            }
            log_sum[place] = log;
        }
    }
}

/// A unit works on a score. `scores` becomes its gradient, `of_weights` the weights.
#[cube(launch)]
fn gradient_kernel<F: Float>(
    scores: &mut Tensor<F>,
    of_weights: &mut Tensor<F>,
    log_sum: &Tensor<f32>,
    along: &Tensor<f32>,
    counts: &Tensor<i32>,
    first_group: usize,
    first_query: usize,
    queries: usize,
    scale: f32,
) {
    let (heads, rows, keys) = (scores.shape(1), scores.shape(2), scores.shape(3));
    let (place, key) = (ABSOLUTE_POS / keys, ABSOLUTE_POS % keys);
    let (head, row) = (place / rows, place % rows);
    let (group, head) = (head / heads, head % heads);
    if group < scores.shape(0) {
        let score = group * scores.stride(0) + head * scores.stride(1) + row * scores.stride(2);
        let score = score + key * scores.stride(3);
        let weight = group * of_weights.stride(0) + head * of_weights.stride(1);
        let weight = weight + row * of_weights.stride(2) + key * of_weights.stride(3);
        let mut share = f32::new(0.0);
        if key < seen(counts, group, row, first_group, first_query, queries) {
            let sum =
                group * log_sum.stride(0) + head * log_sum.stride(1) + row * log_sum.stride(2);
            share = (f32::cast_from(scores[score]) * scale - log_sum[sum]).exp();
        }
        let mean = group * along.stride(0) + head * along.stride(1) + row * along.stride(2);
        let gradient = share * (f32::cast_from(of_weights[weight]) - along[mean]) * scale;
        scores[score] = F::cast_from(gradient);
        of_weights[weight] = F::cast_from(share);
    }
}

//! The softmax of a block of attention's scores, and its gradient, both in place.

use burn::backend::Cube;
use burn::tensor::Tensor as BurnTensor;
use cubecl::prelude::*;

use super::grid::Cells;
use super::weights::{largest, put, sum};
use crate::ops::cube::{
    Fold, UNITS, alone, by_dtype, cube_index, cubes, cubes_for, floats, integers, over_units,
};

/// Which keys the queries of a block see.
pub(in super::super) struct Sees<'a> {
    /// The block's queries, and the rows of what belongs to queries.
    pub(in super::super) cells: Cells<'a>,
    /// Queries of the block in each group.
    pub(in super::super) queries: usize,
    /// Where in the cells' table it says how many keys each query sees, from the first on: `[groups or 1, places]`.
    pub(in super::super) counts: usize,
    /// Whether all groups are alike: then it says so once.
    pub(in super::super) alike: bool,
}

impl Sees<'_> {
    /// Where the counts of the block begin, and how far apart those of its groups are.
    fn counts(&self) -> [usize; 2] {
        let apart = if self.alike { 0 } else { self.cells.places };
        [
            self.counts + self.cells.group * apart + self.cells.place,
            apart,
        ]
    }

    /// Where the rows of the block's queries begin.
    fn rows(&self) -> usize {
        self.cells.base + self.cells.group * self.cells.places + self.cells.place
    }
}

/// Scores as their product gives them, `[groups, key heads, heads * queries, keys]`, to weights of keys that are seen. The
/// log of the sum of each row's is put into `log_sum`, `[rows, key heads * heads]` in 32 bits.
pub(in super::super) fn softmax(
    scores: BurnTensor<4>,
    log_sum: BurnTensor<2>,
    sees: &Sees<'_>,
    scale: f64,
) -> (BurnTensor<4>, BurnTensor<2>) {
    let [groups, heads, rows, keys] = scores.dims();
    let dtype = scores.dtype();
    if groups * heads * rows == 0 {
        return (scores, log_sum);
    }
    let (scores, log_sum) = (alone(scores), alone(log_sum));
    let client = scores.client.clone();
    let units = (keys as u32).next_power_of_two().clamp(UNITS / 8, UNITS);
    let [counts, apart] = sees.counts();
    by_dtype!(dtype, F => softmax_kernel::launch::<F>(
        &client,
        cubes(groups * heads * rows),
        CubeDim::new_1d(units),
        scores.clone().into_tensor_arg(),
        integers(sees.cells.table).into_tensor_arg(),
        log_sum.clone().into_tensor_arg(),
        counts,
        apart,
        sees.rows(),
        sees.cells.places,
        sees.queries,
        scale as f32,
        units as usize,
    ));
    (
        BurnTensor::from_primitive::<Cube>(scores),
        BurnTensor::from_primitive::<Cube>(log_sum),
    )
}

/// From scores as their product gives them, and the gradients of weights: weights and the gradients of the scores.
/// `log_sum` and `along`, `[rows, key heads * heads]` in 32 bits, are the log of the sum of a row's weights, and what the
/// gradients of its weights come to, each times its weight.
pub(in super::super) fn softmax_gradient(
    [scores, of_weights]: [BurnTensor<4>; 2],
    [log_sum, along]: [&BurnTensor<2>; 2],
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
    let [counts, apart] = sees.counts();
    by_dtype!(dtype, F => gradient_kernel::launch::<F>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        scores.clone().into_tensor_arg(),
        of_weights.clone().into_tensor_arg(),
        floats(log_sum).into_tensor_arg(),
        floats(along).into_tensor_arg(),
        integers(sees.cells.table).into_tensor_arg(),
        counts,
        apart,
        sees.rows(),
        sees.cells.places,
        sees.queries,
        scale as f32,
    ));
    [of_weights, scores].map(BurnTensor::from_primitive::<Cube>)
}

/// A cube works on a row. `scores`: `[groups, key heads, rows, keys]`.
#[cube(launch)]
fn softmax_kernel<F: Float>(
    scores: &mut Tensor<F>,
    table: &Tensor<i32>,
    log_sum: &mut Tensor<f32>,
    counts: usize,
    apart: usize,
    base: usize,
    places: usize,
    queries: usize,
    scale: f32,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS_X as usize;
    let (heads, rows, keys) = (scores.shape(1), scores.shape(2), scores.shape(3));
    let all = scores.shape(0) * heads * rows;
    let cube = cube_index();
    // The cubes that a launch has too many write nothing.
    let place = if cube < all { cube } else { all - 1 };
    let (head, row) = (place / rows, place % rows);
    let (group, head) = (head / heads, head % heads);
    let query = row % queries;
    let count = table[counts + group * apart + query] as usize;
    let from = group * scores.stride(0) + head * scores.stride(1) + row * scores.stride(2);
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
        let to = table[base + group * places + query];
        // Padding has no row.
        if unit == 0 && to % 2 == 0 {
            let mut log = most;
            if count > 0 {
                log += sum.ln();
            }
            let column = head * (rows / queries) + row / queries;
            let target = (to / 2) as usize * log_sum.stride(0) + column * log_sum.stride(1);
            log_sum[target] = log;
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
    table: &Tensor<i32>,
    counts: usize,
    apart: usize,
    base: usize,
    places: usize,
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
        let query = row % queries;
        let own = (table[base + group * places + query] / 2) as usize;
        let column = head * (rows / queries) + row / queries;
        let mut share = f32::new(0.0);
        if key < table[counts + group * apart + query] as usize {
            let sum = log_sum[own * log_sum.stride(0) + column * log_sum.stride(1)];
            share = (f32::cast_from(scores[score]) * scale - sum).exp();
        }
        let mean = along[own * along.stride(0) + column * along.stride(1)];
        let gradient = share * (f32::cast_from(of_weights[weight]) - mean) * scale;
        scores[score] = F::cast_from(gradient);
        of_weights[weight] = F::cast_from(share);
    }
}

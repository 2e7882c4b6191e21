//! One softmax over two tensors: a cube works on one query.

use burn::backend::Cube;
use burn::tensor::Tensor as BurnTensor;
use cubecl::prelude::*;

use super::weights::{largest, put, sum};
use crate::ops::cube::{Fold, UNITS, alone, by_dtype, cube_index, cubes, integers, over_units};
use crate::ops::device::scores::{Scores, Seen};

/// As [`crate::ops::device::shares::weights`].
pub(in super::super) fn weights(scores: Scores, seen: &Seen<'_>) -> Scores {
    let [sequences, keys, group, _] = scores.own.dims();
    let dtype = scores.own.dtype();
    let (prefix, own) = (alone(scores.prefix), alone(scores.own));
    let (lengths, written) = (integers(seen.lengths), integers(seen.own));
    let client = own.client.clone();
    by_dtype!(dtype, F => shares_kernel::launch::<F>(
        &client,
        cubes(sequences * keys * group),
        CubeDim::new_1d(UNITS),
        prefix.clone().into_tensor_arg(),
        own.clone().into_tensor_arg(),
        lengths.into_tensor_arg(),
        written.into_tensor_arg(),
        seen.scale as f32,
        seen.each,
        UNITS as usize,
    ));
    Scores {
        prefix: BurnTensor::from_primitive::<Cube>(prefix),
        own: BurnTensor::from_primitive::<Cube>(own),
    }
}

/// `prefix`: `[prefixes, key heads, each * group, longest]`; `own`: `[prefixes * each, key heads, group, room]`;
/// `lengths`: `[prefixes]`; `written`: `[prefixes * each]`.
#[cube(launch)]
fn shares_kernel<F: Float>(
    prefix: &mut Tensor<F>,
    own: &mut Tensor<F>,
    lengths: &Tensor<i32>,
    written: &Tensor<i32>,
    scale: f32,
    each: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS_X as usize;
    let (keys, group) = (own.shape(1), own.shape(2));
    let (longest, room) = (prefix.shape(3), own.shape(3));
    let queries = own.shape(0) * keys * group;
    let cube = cube_index();
    // The cubes that a launch has too many write nothing.
    let query = if cube < queries { cube } else { queries - 1 };
    let head = query / group;
    let (sequence, key) = (head / keys, head % keys);
    let (of, member) = (sequence / each, sequence % each);
    let length = lengths[of] as usize;
    let written = written[sequence] as usize;
    let row = member * group + query % group;
    let from = of * prefix.stride(0) + key * prefix.stride(1) + row * prefix.stride(2);
    let own_from = sequence * own.stride(0) + key * own.stride(1) + (query % group) * own.stride(2);
    let (step, own_step) = (prefix.stride(3), own.stride(3));
    let mut shared = Shared::<[f32]>::new_slice(units);

    let most = f32::new(f32::MIN);
    let most = largest::<F>(prefix, from, step, length, scale, most, units);
    let most = largest::<F>(own, own_from, own_step, written, scale, most, units);
    let most = over_units::<f32>(most, unit, &mut shared, units, Fold::Most);
    let none = f32::new(0.0);
    let of_prefix = sum::<F>(prefix, from, step, length, scale, most, none, units);
    let of_both = sum::<F>(
        own, own_from, own_step, written, scale, most, of_prefix, units,
    );
    let sum = over_units::<f32>(of_both, unit, &mut shared, units, Fold::Sum);
    if cube < queries {
        put::<F>(prefix, from, step, length, longest, scale, most, sum, units);
        put::<F>(
            own, own_from, own_step, written, room, scale, most, sum, units,
        );
    }
}

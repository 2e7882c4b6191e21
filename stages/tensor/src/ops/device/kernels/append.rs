//! New rows of keys and values: a unit puts one value of a key and of a value in its place.

use burn::backend::Cube;
use burn::tensor::{Int, Tensor as BurnTensor};
use cubecl::prelude::*;

use crate::ops::Heads;
use crate::ops::cube::{UNITS, alone, by_dtype, cubes_for, floats, integers};

/// As [`crate::ops::device::append::append`].
pub(in super::super) fn append(
    own: [BurnTensor<4>; 2],
    qkv: &BurnTensor<2>,
    written: &BurnTensor<1, Int>,
    heads: Heads,
) -> [BurnTensor<4>; 2] {
    let [slots, _, _, width] = own[0].dims();
    let count = slots * heads.keys * width;
    if count == 0 {
        return own;
    }
    let own = own.map(alone);
    let client = own[0].client.clone();
    let [keys, values] = own.each_ref().map(|own| own.clone().into_tensor_arg());
    by_dtype!(qkv.dtype(), F => append_kernel::launch::<F>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        keys,
        values,
        floats(qkv).into_tensor_arg(),
        integers(written).into_tensor_arg(),
        heads.queries,
    ));
    own.map(BurnTensor::from_primitive::<Cube>)
}

/// `keys`, `values`: `[slots, key heads, room, width]`; `qkv`: `[slots, (queries + 2 * key heads) * width]`; `written`:
/// `[slots]`.
#[cube(launch)]
fn append_kernel<F: Float>(
    keys: &mut Tensor<F>,
    values: &mut Tensor<F>,
    qkv: &Tensor<F>,
    written: &Tensor<i32>,
    queries: usize,
) {
    let (heads, width) = (keys.shape(1), keys.shape(3));
    let (slot, place) = (
        ABSOLUTE_POS / (heads * width),
        ABSOLUTE_POS % (heads * width),
    );
    let (head, column) = (place / width, place % width);
    if slot < keys.shape(0) {
        let row = written[slot];
        if row > 0 {
            let row = row as usize - 1;
            let from = slot * qkv.stride(0);
            let key = from + ((queries + head) * width + column) * qkv.stride(1);
            let value = from + ((queries + heads + head) * width + column) * qkv.stride(1);
            let to_key = slot * keys.stride(0) + head * keys.stride(1) + row * keys.stride(2);
            let to_key = to_key + column * keys.stride(3);
            let to_value = slot * values.stride(0) + head * values.stride(1);
            let to_value = to_value + row * values.stride(2) + column * values.stride(3);
            keys[to_key] = qkv[key];
            values[to_value] = qkv[value];
        }
    }
}

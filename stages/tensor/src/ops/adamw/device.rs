//! The step as one kernel: each number of a weight and of its moments is read once and written once.

use burn::backend::Cube;
use burn::tensor::Tensor as BurnTensor;
use cubecl::prelude::*;

use super::factors::{AdamWFactors, Weight};
use crate::ops::cube::{UNITS, alone, cubes_for, into_floats};

pub(super) fn adamw(weight: Weight, gradient: BurnTensor<2>, factors: &AdamWFactors) -> Weight {
    let count = gradient.shape().num_elements();
    if count == 0 {
        return weight;
    }
    let weight = weight.map(alone);
    let gradient = into_floats(gradient);
    let client = gradient.client.clone();
    let [value, first, second] = weight
        .each_ref()
        .map(|tensor| tensor.clone().into_tensor_arg());
    let AdamWFactors {
        clip,
        keep,
        step,
        root,
        eps,
        ..
    } = *factors;
    adamw_kernel::launch(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        value,
        first,
        second,
        gradient.into_tensor_arg(),
        clip,
        keep,
        factors.first,
        factors.second,
        factors.second_keep,
        step,
        root,
        eps,
    );
    weight.map(BurnTensor::from_primitive::<Cube>)
}

/// All tensors have the same two dimensions, each its own strides.
#[cube(launch)]
fn adamw_kernel(
    value: &mut Tensor<f32>,
    first: &mut Tensor<f32>,
    second: &mut Tensor<f32>,
    gradient: &Tensor<f32>,
    clip: f32,
    keep: f32,
    to_first: f32,
    to_second: f32,
    second_keep: f32,
    step: f32,
    root: f32,
    eps: f32,
) {
    let at = ABSOLUTE_POS;
    let columns = gradient.shape(1);
    let (row, column) = (at / columns, at % columns);
    if row < gradient.shape(0) {
        let of_gradient = gradient[row * gradient.stride(0) + column * gradient.stride(1)] * clip;
        let at_first = row * first.stride(0) + column * first.stride(1);
        let old = first[at_first];
        let new_first = old + (of_gradient - old) * to_first;
        first[at_first] = new_first;
        let at_second = row * second.stride(0) + column * second.stride(1);
        let new_second = second[at_second] * second_keep + of_gradient * of_gradient * to_second;
        second[at_second] = new_second;
        let at_value = row * value.stride(0) + column * value.stride(1);
        value[at_value] =
            value[at_value] * keep - step * new_first / (new_second.sqrt() / root + eps);
    }
}

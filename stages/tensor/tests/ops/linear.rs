//! Linear layers with bias, activation, adapter and the adapter's dropout, and the head that is the embedding.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use dcsft_tensor::device::test_device;
use dcsft_tensor::ops::{self, Activation, Adapter, Dropout, DropoutKeys, composed};
use dcsft_tensor::rng::StreamKey;

use super::compare::{compare, random, values_of};

#[test]
fn linear_layers_have_the_values_and_gradients_of_their_definition() {
    for rows in [1, 37, 300] {
        let inputs = [
            random("x", [rows, 13]),
            random("w", [13, 20]),
            random("b", [1, 20]),
        ];
        for activation in [Activation::None, Activation::Gelu, Activation::GeluTanh] {
            compare(
                &inputs,
                |i| ops::linear(i[0].clone(), &i[1], Some(&i[2]), None, activation),
                |i| composed::linear(i[0].clone(), &i[1], Some(&i[2]), None, activation),
            );
        }
    }
}

/// Input, weight and bias of a layer, and the factors of its adapter.
pub(super) fn adapted_layer(rows: usize) -> [Tensor<2>; 5] {
    [
        random("x", [rows, 13]),
        random("w", [13, 20]),
        random("b", [1, 20]),
        random("lora a", [13, 3]),
        random("lora b", [3, 20]),
    ]
}

/// What computes a layer.
type Linear =
    fn(Tensor<2>, &Tensor<2>, Option<&Tensor<2>>, Option<&Adapter>, Activation) -> Tensor<2>;

/// What such a layer gives.
pub(super) fn adapted(
    linear: Linear,
    layer: &[Tensor<2>],
    dropped: Option<&[u32]>,
    activation: Activation,
) -> Tensor<2> {
    let adapter = Adapter {
        a: layer[3].clone(),
        b: layer[4].clone(),
        scale: 0.5,
        dropout: dropped.map(|dropped| Dropout::of(0.1, dropped)),
    };
    let (x, bias) = (layer[0].clone(), Some(&layer[2]));
    linear(x, &layer[1], bias, Some(&adapter), activation)
}

#[test]
fn adapters_have_the_values_and_gradients_of_their_definition() {
    for dropped in [None, Some(&[0u32, 5, 12, 13, 100, 133 * 13 - 1][..])] {
        let inputs = adapted_layer(200);
        compare(
            &inputs,
            |i| adapted(ops::linear, i, dropped, Activation::Gelu),
            |i| adapted(composed::linear, i, dropped, Activation::Gelu),
        );
    }
}

#[test]
fn a_large_linear_layer_has_the_values_and_gradients_of_its_definition() {
    let inputs = [
        random("x", [150, 260]),
        random("w", [260, 270]),
        random("b", [1, 270]),
    ];
    compare(
        &inputs,
        |i| ops::linear(i[0].clone(), &i[1], Some(&i[2]), None, Activation::Gelu),
        |i| composed::linear(i[0].clone(), &i[1], Some(&i[2]), None, Activation::Gelu),
    );
}

#[test]
fn a_tied_head_has_the_values_and_gradients_of_its_definition() {
    for rows in [3, 140] {
        let inputs = [random("x", [rows, 24]), random("embedding", [530, 24])];
        compare(
            &inputs,
            |i| ops::tied_head(i[0].clone(), &i[1]),
            |i| composed::tied_head(i[0].clone(), &i[1]),
        );
    }
}

/// What dropout makes of inputs that are all 1: an identity on the path of an adapter shows it.
fn shown(dropout: &Dropout, rows: usize, width: usize) -> Vec<f32> {
    let filled = |shape: [usize; 2], value: f32| {
        let values = vec![value; shape[0] * shape[1]];
        Tensor::<2>::from_data(TensorData::new(values, shape), &test_device())
    };
    let mut identity = vec![0f32; width * width];
    identity
        .iter_mut()
        .step_by(width + 1)
        .for_each(|value| *value = 1.0);
    let identity = TensorData::new(identity, [width, width]);
    let identity = Tensor::<2>::from_data(identity, &test_device());
    let adapter = Adapter {
        a: identity.clone(),
        b: identity,
        scale: 1.0,
        dropout: Some(dropout.clone()),
    };
    let (x, weight) = (filled([rows, width], 1.0), filled([width, width], 0.0));
    let y = ops::linear(x, &weight, None, Some(&adapter), Activation::None);
    values_of(y)
}

#[test]
fn dropout_leaves_out_the_drawn_inputs_and_no_others() {
    let key = StreamKey::new("mask", 5);
    // A sample without rows, samples that begin within a word of bits, and one of many rounds of draws; with 0.0001 no
    // table of gaps is made.
    let cases = [
        (0.3, vec![("a", 20), ("b", 17)], 45),
        (0.05, vec![("a", 1), ("b", 0), ("c", 4000), ("d", 3)], 61),
        (0.9, vec![("a", 700), ("b", 5)], 33),
        (0.0001, vec![("a", 300), ("b", 300)], 64),
    ];
    for (probability, owners, width) in cases {
        let rows = owners.iter().map(|(_, rows)| rows).sum::<usize>();
        let (ids, counts): (Vec<Arc<str>>, Vec<usize>) = owners
            .into_iter()
            .map(|(id, rows)| (id.into(), rows))
            .unzip();
        // The second of two layers.
        let keys = DropoutKeys::new(&key, ["other".into(), "layer".into()]);
        let dropout = keys.draw("layer", probability, &ids, &counts, width);
        let dropped = dropout.dropped();
        for (index, value) in shown(&dropout, rows, width).into_iter().enumerate() {
            let right = match dropped.binary_search(&(index as u32)) {
                Ok(_) => 0.0,
                Err(_) => 1.0 / (1.0 - probability) as f32,
            };
            let error = (value - right).abs();
            assert!(
                error < 1e-6 * right.max(1.0),
                "{probability}: input {index}: {value}"
            );
        }
    }
}

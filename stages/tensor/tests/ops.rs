//! The fused operations of the CPU device against their definitions in burn's own operations, against finite
//! differences, and at different numbers of threads.

#[path = "ops/attention.rs"]
mod attention;
#[path = "ops/compare.rs"]
mod compare;
#[path = "ops/linear.rs"]
mod linear;
#[path = "ops/narrow.rs"]
mod narrow;

use burn::tensor::{Tensor, TensorData};
use dcsft_tensor::device::test_device;
use dcsft_tensor::ops::{self, Activation, Adapter, Heads, Rotary, Spans, composed, device};

use compare::{assert_close, compare, random, run, values, values_of};
use linear::{adapted, adapted_layer};

#[test]
fn layer_norm_has_the_values_and_gradients_of_its_definition() {
    for width in [5, 16, 48] {
        let inputs = [
            random("x", [150, width]),
            random("scale", [1, width]),
            random("shift", [1, width]),
        ];
        compare(
            &inputs,
            |i| ops::layer_norm(i[0].clone(), &i[1], &i[2], 1e-5),
            |i| composed::layer_norm(i[0].clone(), &i[1], &i[2], 1e-5),
        );
    }
}

/// What devices other than the CPU compute, which any device can.
#[test]
fn operations_of_devices_have_the_values_and_gradients_of_their_definition() {
    const ROWS: usize = 19;
    let layer = adapted_layer(ROWS);
    for dropped in [None, Some(&[0u32, 5, 12, 13, 100, 18 * 13 - 1][..])] {
        for activation in [Activation::None, Activation::Gelu, Activation::GeluTanh] {
            compare(
                &layer,
                |i| adapted(device::linear, i, dropped, activation),
                |i| adapted(composed::linear, i, dropped, activation),
            );
        }
    }
    let rows = [
        random("x", [ROWS, 13]) * 3.0,
        random("scale", [1, 13]),
        random("shift", [1, 13]),
    ];
    compare(
        &rows,
        |i| device::layer_norm(i[0].clone(), &i[1], &i[2], 1e-3),
        |i| composed::layer_norm(i[0].clone(), &i[1], &i[2], 1e-3),
    );
    compare(
        &rows[..2],
        |i| device::rms_norm(i[0].clone(), &i[1], 1e-3),
        |i| composed::rms_norm(i[0].clone(), &i[1], 1e-3),
    );
    compare(
        &[random("gate", [ROWS, 13]), random("up", [ROWS, 13])],
        |i| device::swiglu(i[0].clone(), i[1].clone()),
        |i| composed::swiglu(i[0].clone(), i[1].clone()),
    );
    let targets: Vec<u32> = (0..ROWS as u32).collect();
    compare(
        &[random("logits", [ROWS, 32]) * 3.0],
        |i| device::token_logprobs(i[0].clone(), &targets, 0.7),
        |i| composed::token_logprobs(i[0].clone(), &targets, 0.7),
    );
}

#[test]
fn taken_rows_give_their_gradients_back() {
    let indices = [3u32, 0, 3, 7, 1];
    compare(
        &[random("x", [8, 6])],
        |i| ops::take_rows(i[0].clone(), &indices),
        |i| composed::take_rows(i[0].clone(), &indices),
    );
}

#[test]
fn logprobs_and_entropy_follow_the_tempered_softmax() {
    let targets = [0u32, 31, 5, 5, 17];
    let logits = random("logits", [5, 32]) * 3.0;
    compare(
        std::slice::from_ref(&logits),
        |i| ops::token_logprobs(i[0].clone(), &targets, 0.7),
        |i| composed::token_logprobs(i[0].clone(), &targets, 0.7),
    );
    let entropies = values(ops::entropy(logits.clone(), 0.7));
    for (row, (logits, &target)) in values(logits.clone()).chunks(32).zip(&targets).enumerate() {
        let weights: Vec<f64> = logits
            .iter()
            .map(|&logit| (f64::from(logit) / 0.7).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        let entropy: f64 = weights
            .iter()
            .map(|weight| -weight / total * (weight / total).ln())
            .sum();
        assert!((f64::from(entropies[row]) - entropy).abs() < 1e-5);
        let logprob = values(ops::token_logprobs(one_row(logits), &[target], 0.7))[0];
        assert!((f64::from(logprob) - (weights[target as usize] / total).ln()).abs() < 1e-5);
    }
}

fn one_row(values: &[f32]) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [1, values.len()]),
        &test_device(),
    )
}

#[test]
fn root_mean_square_norm_gate_and_rotary_positions_are_their_definitions() {
    let inputs = [random("x", [150, 24]), random("s", [1, 24])];
    compare(
        &inputs,
        |i| ops::rms_norm(i[0].clone(), &i[1], 1e-6),
        |i| composed::rms_norm(i[0].clone(), &i[1], 1e-6),
    );
    let inputs = [random("gate", [150, 24]), random("up", [150, 24])];
    compare(
        &inputs,
        |i| ops::swiglu(i[0].clone(), i[1].clone()),
        |i| composed::swiglu(i[0].clone(), i[1].clone()),
    );
    // Two of three heads turn; the third stays.
    let angles = values(random("angles", [150, 4]));
    let rotary = Rotary::new(&angles, 4);
    let inputs = [random("x", [150, 24])];
    compare(
        &inputs,
        |i| ops::rotate(i[0].clone(), &rotary, 2),
        |i| composed::rotate(i[0].clone(), &rotary, 2),
    );
}

#[test]
fn large_and_small_values_pass_activations_and_gates_as_defined() {
    let large = [
        -1e4, -300.0, -90.0, -12.0, -1e-3, -0.0, 1e-3, 12.0, 90.0, 300.0, 1e4,
    ];
    let inputs = [one_row(&large), one_row(&[0.5; 11])];
    let identity = |x: &[Tensor<2>], activation| {
        let one = Tensor::eye(11, &x[0].device());
        let linear = |x: Tensor<2>| ops::linear(x, &one, None, None, activation);
        linear(x[0].clone())
    };
    // At the far ends a value comes through as it is, or not at all, and so does its gradient.
    for activation in [Activation::Gelu, Activation::GeluTanh] {
        let [out, slopes] = <[_; 2]>::try_from(run(&inputs[..1], |x| identity(x, activation)))
            .expect("an output and a gradient");
        let weights = values(random("weights", [1, 11]));
        for (at, &x) in large.iter().enumerate().filter(|(_, x)| x.abs() > 10.0) {
            let through = if x > 0.0 { 1.0 } else { 0.0 };
            let (value, slope) = (x * through, weights[at] * through);
            assert!(
                (out[at] - value).abs() <= 1e-5 * x.abs(),
                "{x}: {}",
                out[at]
            );
            assert!((slopes[at] - slope).abs() <= 1e-5, "{x}: {}", slopes[at]);
        }
    }
    let gated = run(&inputs[..2], |x| ops::swiglu(x[0].clone(), x[1].clone()));
    let weights = values(random("weights", [1, 11]));
    for (at, &x) in large.iter().enumerate().filter(|(_, x)| x.abs() > 50.0) {
        let through = if x > 0.0 { 1.0 } else { 0.0 };
        let expected = [
            x * through * 0.5,
            weights[at] * 0.5 * through,
            weights[at] * x * through,
        ];
        for (found, expected) in gated.iter().zip(expected) {
            let bound = 1e-5 * expected.abs().max(1.0);
            assert!(
                (found[at] - expected).abs() <= bound,
                "{x}: {} for {expected}",
                found[at]
            );
        }
    }
}

#[test]
fn weights_without_gradients_get_none() {
    let frozen = random("w", [6, 6]);
    let x = random("x", [4, 6]).require_grad();
    let bias = random("b", [1, 6]);
    let grads = ops::linear(x.clone(), &frozen, Some(&bias), None, Activation::None)
        .sum()
        .backward();
    assert!(x.grad(&grads).is_some());
    assert!(frozen.grad(&grads).is_none() && bias.grad(&grads).is_none());
}

#[test]
fn tensors_without_autodiff_stay_without() {
    let plain = |name, shape| random(name, shape).inner();
    let out = ops::linear(
        plain("x", [4, 6]),
        &plain("w", [6, 6]),
        Some(&plain("b", [1, 6])),
        None,
        Activation::Gelu,
    );
    assert!(!out.is_autodiff());
    assert!(!ops::layer_norm(out, &plain("s", [1, 6]), &plain("t", [1, 6]), 1e-5).is_autodiff());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let inputs = [
        random("x", [700, 48]),
        random("w", [48, 144]),
        random("b", [1, 144]),
        random("lora a", [48, 8]),
        random("lora b", [8, 144]),
        random("scale", [1, 48]),
        random("shift", [1, 48]),
    ];
    let spans = Spans::full(28, 25);
    let all = || {
        run(&inputs, |i| {
            let normed = ops::layer_norm(i[0].clone(), &i[5], &i[6], 1e-5);
            let adapter = Adapter {
                a: i[3].clone(),
                b: i[4].clone(),
                scale: 2.0,
                dropout: None,
            };
            let qkv = ops::linear(normed, &i[1], Some(&i[2]), Some(&adapter), Activation::Gelu);
            ops::attention(qkv, &spans, Heads::all(4))
        })
    };
    let threads = |count| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .build()
            .unwrap()
            .install(all)
    };
    let bits =
        |all: Vec<Vec<f32>>| -> Vec<u32> { all.into_iter().flatten().map(f32::to_bits).collect() };
    let one = bits(threads(1));
    assert_eq!(one, bits(threads(2)));
    assert_eq!(one, bits(threads(3)));
}

#[test]
fn sums_means_and_exponentials_have_the_values_and_gradients_of_their_definition() {
    let row = |x: &Tensor<2>| x.clone().reshape([x.shape().num_elements()]);
    let inputs = [random("x", [12, 7])];
    let weights = values(random("loss weights", [12, 7]));
    compare(
        &inputs,
        |i| ops::weighted_sum(row(&i[0]), &weights),
        |i| composed::weighted_sum(row(&i[0]), &weights),
    );
    compare(
        &inputs,
        |i| ops::mean_of_rows(i[0].clone(), 4),
        |i| composed::mean_of_rows(i[0].clone(), 4),
    );
    compare(&inputs, |i| ops::exp(row(&i[0])), |i| row(&i[0]).exp());
    for (ours, theirs) in [
        (
            ops::entropy(inputs[0].clone(), 0.7),
            composed::entropy(inputs[0].clone(), 0.7),
        ),
        (
            ops::squares_of_rows(inputs[0].clone()),
            composed::squares_of_rows(inputs[0].clone()),
        ),
    ] {
        assert_close(&[values_of(ours)], &[values_of(theirs)], 1e-5);
    }
    // The gradient that is sent back is the one that was given, through what comes before.
    let gradient = random("gradient", [12, 7]).inner();
    let sent = |send: fn(Tensor<2>, Tensor<2>) -> Tensor<1>| {
        let leaf = inputs[0].clone().inner().autodiff().require_grad();
        let grads = send(leaf.clone() * 3.0, gradient.clone()).backward();
        values_of(leaf.grad(&grads).expect("a gradient"))
    };
    let tripled = values_of(gradient.clone() * 3.0);
    assert_eq!(sent(ops::sent_back), tripled);
    assert_close(&[sent(composed::sent_back)], &[tripled], 1e-6);
}

#[test]
fn an_entropy_is_right_where_tokens_are_impossible_and_where_all_are_alike() {
    let logits = |row: Vec<f32>| {
        let width = row.len();
        Tensor::<2>::from_data(TensorData::new(row, [1, width]), &test_device())
    };
    for entropy in [ops::entropy, composed::entropy] {
        let entropy = |row| values_of(entropy(logits(row), 1.0))[0];
        let alike = entropy(vec![3.0; 37]);
        assert!((alike - 37f32.ln()).abs() < 1e-6, "{alike}");
        assert_eq!(entropy(vec![0.0, f32::NEG_INFINITY, -200.0]), 0.0);
    }
}

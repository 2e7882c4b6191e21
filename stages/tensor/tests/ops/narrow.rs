//! The operations of devices in 16 bits, in each type that the device computes in: their values and gradients are those in
//! 32 bits, up to rounding.

use burn::tensor::{DType, Tensor};
use dcsft_tensor::device::{computes_in, test_device};
use dcsft_tensor::ops::device::attention::{Budget, within};
use dcsft_tensor::ops::{
    self, Activation, Adapter, Continuation, Dropout, Heads, KvCache, Rotary, Spans, device,
};

use super::attention::{many, overlapping, ragged};
use super::compare::{assert_close, random, run, values, values_of};

/// Types of 16 bits, and how far their results may be off: eight steps of rounding of the largest value.
const TYPES: [(DType, f32); 2] = [(DType::BF16, 0.03), (DType::F16, 0.004)];

/// The types that the device computes in.
fn types() -> Vec<(DType, f32)> {
    let (can, cannot): (Vec<_>, Vec<_>) = TYPES
        .into_iter()
        .partition(|(dtype, _)| computes_in(&test_device(), *dtype));
    for (dtype, _) in cannot {
        eprintln!("skipped: the device does not compute in {dtype:?}");
    }
    can
}

/// Of an operation on `inputs`, of which the first `narrow` are of the model's type.
fn assert_near(
    what: &str,
    inputs: &[Tensor<2>],
    narrow: usize,
    operation: impl Fn(&[Tensor<2>]) -> Tensor<2>,
) {
    for (dtype, tolerance) in types() {
        let of_type = |dtype, inputs: &[Tensor<2>]| -> Vec<Tensor<2>> {
            let cast = |(index, input): (usize, &Tensor<2>)| match index < narrow {
                true => input.clone().cast(dtype),
                false => input.clone(),
            };
            inputs.iter().enumerate().map(cast).collect()
        };
        let rounded: Vec<Tensor<2>> = of_type(dtype, inputs)
            .into_iter()
            .map(|input| input.cast(DType::F32))
            .collect();
        let wide = run(&rounded, &operation);
        let got = run(&rounded, |inputs| {
            let out = operation(&of_type(dtype, inputs));
            out.cast(DType::F32)
        });
        eprintln!("{what}, {dtype:?}");
        assert_close(&got, &wide, tolerance);
    }
}

#[test]
fn layers_in_sixteen_bits_are_those_in_32_up_to_rounding() {
    let layer = [
        random("x", [40, 16]),
        random("w", [16, 24]) * 0.25,
        random("b", [1, 24]),
        random("lora a", [16, 4]) * 0.25,
        random("lora b", [4, 24]) * 0.5,
    ];
    for activation in [Activation::None, Activation::Gelu, Activation::GeluTanh] {
        for dropped in [None, Some([0_u32, 5, 12, 13, 100])] {
            assert_near("a layer", &layer, 3, |i| {
                let adapter = Adapter {
                    a: i[3].clone(),
                    b: i[4].clone(),
                    scale: 0.5,
                    dropout: dropped
                        .as_ref()
                        .map(|dropped| Dropout::of(0.1, dropped.as_slice())),
                };
                let adapter = Some(&adapter);
                device::linear(i[0].clone(), &i[1], Some(&i[2]), adapter, activation)
            });
        }
    }
    let rows = [
        random("x", [40, 24]),
        random("scale", [1, 24]),
        random("shift", [1, 24]),
    ];
    assert_near("layer norm", &rows, 3, |i| {
        device::layer_norm(i[0].clone(), &i[1], &i[2], 1e-3)
    });
    assert_near("norm", &rows[..2], 2, |i| {
        device::rms_norm(i[0].clone(), &i[1], 1e-3)
    });
    let gates = [random("gate", [40, 24]), random("up", [40, 24])];
    assert_near("gate", &gates, 2, |i| {
        device::swiglu(i[0].clone(), i[1].clone())
    });
    let angles: Vec<f32> = (0..40 * 4).map(|place| place as f32 * 0.1).collect();
    let rotary = Rotary::new(&angles, 4);
    assert_near("rotary positions", &gates[..1], 1, |i| {
        device::rotate(i[0].clone(), &rotary, 2)
    });
    assert_near("rotary positions in 32 bits", &gates[..1], 1, |i| {
        device::rotate_wide(i[0].clone(), &rotary, 2)
    });
    let targets: Vec<u32> = (0..40).map(|row| row % 24).collect();
    assert_near("log-probabilities", &gates[..1], 1, |i| {
        let logprobs = device::token_logprobs(i[0].clone(), &targets, 0.7);
        logprobs.reshape([1, 40])
    });
}

#[test]
fn attention_in_sixteen_bits_is_that_in_32_up_to_rounding() {
    let heads = Heads {
        queries: 4,
        keys: 2,
    };
    let (many, rows) = many();
    let blocks = Budget {
        scores: 300,
        padding: 20,
    };
    for (spans, rows) in [(ragged(), 21), (overlapping(), 21), (many, rows)] {
        let inputs = [random("qkv", [rows, 8 * 6])];
        for budget in [Budget::DEFAULT, blocks] {
            assert_near("attention", &inputs, 1, |i| {
                within(budget, i[0].clone(), &spans, heads)
            });
        }
    }
}

/// Three sequences that continue two prefixes, for three steps: what all steps give of numbers that are rounded to a type,
/// in another.
fn continued(heads: Heads, [rounded, dtype]: [DType; 2]) -> Vec<f32> {
    let packed = |name: &str, rows| {
        let rows = random(name, [rows, 8 * 6]).inner();
        rows.cast(rounded).cast(dtype)
    };
    let mut cache = KvCache::new(heads);
    cache.enter(&[0..6, 6..10]);
    cache.push(&packed("prefixes", 10));
    let owners = [(0, 0), (0, 1), (1, 2)];
    let owners = owners.map(|(prefix, sequence)| Continuation { prefix, sequence });
    let step = |step: &str| {
        cache.begin(&owners);
        values(cache.attend(0, packed(step, 3)).cast(DType::F32).autodiff())
    };
    ["first", "second", "third"].map(step).concat()
}

#[test]
fn a_cache_in_sixteen_bits_is_one_in_32_up_to_rounding() {
    let heads = Heads {
        queries: 4,
        keys: 2,
    };
    for (dtype, tolerance) in types() {
        let [got, wide] = [dtype, DType::F32].map(|own| continued(heads, [dtype, own]));
        assert_close(&[got], &[wide], tolerance);
    }
}

#[test]
fn sums_of_squares_in_sixteen_bits_are_those_of_the_same_numbers() {
    for (dtype, _) in types() {
        let narrow = random("x", [37, 19]).inner().cast(dtype);
        let wide = narrow.clone().cast(DType::F32);
        let read = |x: &Tensor<2>| values(ops::sums_of_squares(&[x]).autodiff());
        assert_close(&[read(&narrow)], &[read(&wide)], 1e-5);
    }
}

/// In bf16, differentiable.
fn rounded(x: &Tensor<2>) -> Tensor<2> {
    x.clone().cast(DType::BF16)
}

#[test]
fn tensors_of_sixteen_bits_are_worked_on_in_32_and_rounded_once() {
    if !computes_in(&test_device(), DType::BF16) {
        eprintln!("skipped: the device does not compute in bf16");
        return;
    }
    let [x, w, b] = [
        random("x", [9, 16]),
        random("w", [16, 48]),
        random("b", [1, 48]),
    ];
    let wide = |x: &Tensor<2>| rounded(x).cast(DType::F32);
    let heads = Heads {
        queries: 4,
        keys: 4,
    };
    let spans = || Spans::full(1, 9);
    let pairs = [
        (
            ops::linear(
                rounded(&x),
                &rounded(&w),
                Some(&rounded(&b)),
                None,
                Activation::Gelu,
            ),
            ops::linear(wide(&x), &wide(&w), Some(&wide(&b)), None, Activation::Gelu),
        ),
        (
            ops::rms_norm(rounded(&w), &rounded(&b), 1e-6),
            ops::rms_norm(wide(&w), &wide(&b), 1e-6),
        ),
        (
            ops::attention(rounded(&random("qkv", [9, 48])), &spans(), heads),
            ops::attention(wide(&random("qkv", [9, 48])), &spans(), heads),
        ),
        (
            ops::swiglu(rounded(&x), rounded(&random("up", [9, 16]))),
            ops::swiglu(wide(&x), wide(&random("up", [9, 16]))),
        ),
    ];
    for (ours, exact) in pairs {
        assert_eq!(ours.dtype(), DType::BF16);
        let rounded = exact.inner().cast(DType::BF16);
        let read = |tensor: Tensor<2>| values_of(tensor.cast(DType::F32));
        assert_eq!(read(ours.inner()), read(rounded));
    }
}

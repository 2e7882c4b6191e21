//! How far a device's functions, and the operations made of them, are from the right values. What is off here is off in
//! everything that is computed with it.

use burn::tensor::{Device, Tensor, TensorData, activation};
use dcsft_tensor::device::test_device;
use dcsft_tensor::ops::{self, Activation, Adapter, Heads, Span, Spans};
use dcsft_tensor::rng::StreamKey;

use crate::support::compare::{largest, values};

/// Numbers from `low` to `high`.
fn range(low: f64, high: f64) -> Vec<f32> {
    const COUNT: u32 = 10_000;
    let at = |index: u32| low + (high - low) * f64::from(index) / f64::from(COUNT);
    (0..COUNT).map(|index| at(index) as f32).collect()
}

fn tensor(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// The largest error, relative to the right value or, where that is small, to `size`.
fn error(what: &str, got: Vec<f32>, right: impl Iterator<Item = f64>, size: f64) -> f64 {
    let errors = got
        .iter()
        .zip(right)
        .map(|(&got, right)| (f64::from(got) - right).abs() / right.abs().max(size));
    let most = errors.fold(0.0, f64::max);
    println!("{what}: {most:.1e}");
    most
}

#[test]
fn functions_of_a_device_are_right_to_the_sixth_digit() {
    let device = test_device();
    type Function = (
        &'static str,
        fn(Tensor<1>) -> Tensor<1>,
        fn(f64) -> f64,
        [f64; 2],
        f64,
    );
    let functions: [Function; 7] = [
        ("exp", Tensor::exp, libm::exp, [-20.0, 5.0], 0.0),
        ("log", Tensor::log, libm::log, [1e-3, 100.0], 1.0),
        ("sqrt", Tensor::sqrt, libm::sqrt, [1e-6, 100.0], 0.0),
        ("1/x", Tensor::recip, |x| 1.0 / x, [1e-3, 100.0], 0.0),
        ("erf", Tensor::erf, libm::erf, [-3.0, 3.0], 1.0),
        ("tanh", Tensor::tanh, libm::tanh, [-6.0, 6.0], 1.0),
        (
            "sigmoid",
            activation::sigmoid,
            |x| 1.0 / (1.0 + libm::exp(-x)),
            [-9.0, 9.0],
            0.0,
        ),
    ];
    for (what, own, right, [low, high], size) in functions {
        let inputs = range(low, high);
        let right = inputs.iter().map(|&x| right(f64::from(x)));
        let error = error(what, values(own(tensor(&inputs, &device))), right, size);
        assert!(error < 4e-6, "{what}: {error}");
    }
}

#[test]
fn products_of_a_device_are_right_to_the_sixth_digit() {
    let device = test_device();
    const SIZE: usize = 256;
    let a = range(-1.0, 1.0);
    let a: Vec<f32> = a.iter().cycle().take(SIZE * SIZE).copied().collect();
    let matrix = || tensor(&a, &device).reshape([SIZE, SIZE]);
    let right = (0..SIZE * SIZE).map(|at| {
        let (row, column) = (at / SIZE, at % SIZE);
        let terms =
            (0..SIZE).map(|k| f64::from(a[row * SIZE + k]) * f64::from(a[k * SIZE + column]));
        terms.sum::<f64>()
    });
    let product = ops::linear(matrix(), &matrix(), None, None, Activation::None);
    let error = error("product", values(product), right, SIZE as f64 / 3.0);
    assert!(error < 1e-6, "{error}");
}

fn random(name: &str, shape: [usize; 2], device: &Device) -> Tensor<2> {
    let mut stream = StreamKey::new("precision", 0).text(name).stream();
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|_| stream.normal() as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The output of an operation, then the gradients of a random weighting of it in each input.
fn with_gradients(
    shapes: &[[usize; 2]],
    device: &Device,
    operation: &dyn Fn(&[Tensor<2>]) -> Tensor<2>,
) -> Vec<Vec<f32>> {
    let device = device.clone().autodiff();
    let each = shapes.iter().enumerate();
    let leaves: Vec<Tensor<2>> = each
        .map(|(index, &shape)| random(&index.to_string(), shape, &device).require_grad())
        .collect();
    let out = operation(&leaves);
    let weights = random("weights", out.dims(), &device);
    let grads = (out.clone() * weights).sum().backward();
    let gradients = leaves.iter().map(|leaf| values(leaf.grad(&grads).unwrap()));
    std::iter::once(values(out)).chain(gradients).collect()
}

#[test]
fn operations_and_their_gradients_are_the_processors_to_the_sixth_digit() {
    const ROWS: usize = 48;
    let spans = Spans::new(
        (0..3)
            .map(|index| Span {
                prefix: 0..0,
                own: index * 16..(index + 1) * 16,
                queries: index * 16..(index + 1) * 16,
                causal: index > 0,
            })
            .collect(),
    );
    let targets: Vec<u32> = (0..ROWS as u32).collect();
    let linear = |i: &[Tensor<2>], activation| {
        ops::linear(i[0].clone(), &i[1], Some(&i[2]), None, activation)
    };
    type Operation<'a> = (
        &'a str,
        Vec<[usize; 2]>,
        &'a dyn Fn(&[Tensor<2>]) -> Tensor<2>,
    );
    let three = vec![[ROWS, 64], [64, 96], [1, 96]];
    let operations: [Operation<'_>; 11] = [
        ("linear", three.clone(), &|i| linear(i, Activation::None)),
        ("linear, gelu", three.clone(), &|i| {
            linear(i, Activation::Gelu)
        }),
        ("linear, tanh gelu", three, &|i| {
            linear(i, Activation::GeluTanh)
        }),
        (
            "adapted",
            vec![[ROWS, 64], [64, 96], [64, 8], [8, 96]],
            &|i| {
                let adapter = Adapter {
                    a: i[2].clone(),
                    b: i[3].clone(),
                    scale: 0.5,
                    dropout: None,
                };
                ops::linear(i[0].clone(), &i[1], None, Some(&adapter), Activation::None)
            },
        ),
        ("convolution", vec![[ROWS, 64], [64, 96]], &|i| {
            ops::convolve(i[0].clone(), &i[1])
        }),
        ("tied head", vec![[ROWS, 64], [300, 64]], &|i| {
            ops::tied_head(i[0].clone(), &i[1])
        }),
        ("layer norm", vec![[ROWS, 64], [1, 64], [1, 64]], &|i| {
            ops::layer_norm(i[0].clone(), &i[1], &i[2], 1e-6)
        }),
        ("rms norm", vec![[ROWS, 64], [1, 64]], &|i| {
            ops::rms_norm(i[0].clone(), &i[1], 1e-6)
        }),
        ("swiglu", vec![[ROWS, 64], [ROWS, 64]], &|i| {
            ops::swiglu(i[0].clone(), i[1].clone())
        }),
        ("attention", vec![[ROWS, 96]], &|i| {
            ops::attention(i[0].clone(), &spans, Heads::all(4))
        }),
        ("log-probabilities", vec![[ROWS, 300]], &|i| {
            ops::token_logprobs(i[0].clone(), &targets, 0.7).reshape([ROWS, 1])
        }),
    ];
    // What a golden test would see as a wrong gradient somewhere is seen here by name.
    for (what, shapes, operation) in operations {
        let ours = with_gradients(&shapes, &test_device(), operation);
        let cpu = with_gradients(&shapes, &Device::flex(), operation);
        for (which, (ours, cpu)) in ours.iter().zip(&cpu).enumerate() {
            let size = cpu.iter().fold(0f32, |size, value| size.max(value.abs()));
            let error = largest(ours, cpu) / size;
            println!("{what}, {which}: {error:.1e}");
            assert!(error < 2e-6, "{what}, {which}: {error}");
        }
    }
}

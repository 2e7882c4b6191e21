//! Operations against their definitions, and gradients against finite differences.

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_tensor::device::test_device;
use dcsft_tensor::rng::StreamKey;

pub(super) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.inner().into_data().try_to_vec().unwrap()
}

/// Of a tensor that no gradient is asked of.
pub(super) fn values_of<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

pub(super) fn random(name: &str, shape: [usize; 2]) -> Tensor<2> {
    random_on(name, shape, &test_device().autodiff())
}

fn random_on(name: &str, shape: [usize; 2], device: &Device) -> Tensor<2> {
    let mut stream = StreamKey::new("ops test", 0).text(name).stream();
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|_| stream.normal() as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The output of `f` and the gradient of a random weighting of it in each input.
pub(super) fn run<const D: usize>(
    inputs: &[Tensor<2>],
    f: impl Fn(&[Tensor<2>]) -> Tensor<D>,
) -> Vec<Vec<f32>> {
    let leaves: Vec<Tensor<2>> = inputs
        .iter()
        .map(|input| input.clone().inner().autodiff().require_grad())
        .collect();
    let out = f(&leaves);
    let weights = random_on("weights", [1, out.shape().num_elements()], &out.device());
    let weights = weights.reshape(out.shape());
    let grads = (out.clone() * weights).sum().backward();
    let mut all = vec![values(out)];
    all.extend(
        leaves
            .iter()
            .map(|leaf| values(leaf.grad(&grads).expect("a gradient for every input"))),
    );
    all
}

pub(super) fn assert_close(left: &[Vec<f32>], right: &[Vec<f32>], tolerance: f32) {
    assert_eq!(left.len(), right.len());
    for (which, (left, right)) in left.iter().zip(right).enumerate() {
        assert_eq!(
            left.len(),
            right.len(),
            "length of output or gradient {which}"
        );
        let size = right.iter().fold(1f32, |size, value| size.max(value.abs()));
        for (index, (left, right)) in left.iter().zip(right).enumerate() {
            assert!(
                (left - right).abs() <= tolerance * size,
                "output or gradient {which} differs at {index}: {left} and {right}"
            );
        }
    }
}

/// The same numbers on the CPU.
fn on_cpu(inputs: &[Tensor<2>]) -> Vec<Tensor<2>> {
    let moved = |input: &Tensor<2>| {
        let data = input.clone().inner().into_data();
        Tensor::from_data(data, &Device::flex().autodiff())
    };
    inputs.iter().map(moved).collect()
}

/// Compares `fused` on the device of the tests with `composed` on the CPU, where numbers of 32 bits are no less on any machine,
/// and the gradients of `fused` with finite differences at a few places.
pub(super) fn compare<const D: usize>(
    inputs: &[Tensor<2>],
    fused: impl Fn(&[Tensor<2>]) -> Tensor<D>,
    composed: impl Fn(&[Tensor<2>]) -> Tensor<D>,
) {
    let right = run(&on_cpu(inputs), &composed);
    let got = run(inputs, &fused);
    assert_close(&got, &right, 1e-5);

    let weighted = |inputs: &[Tensor<2>]| {
        let out = fused(inputs);
        let weights = random("weights", [1, out.shape().num_elements()]);
        let products = values(out)
            .into_iter()
            .zip(values(weights))
            .map(|(a, b)| f64::from(a) * f64::from(b));
        products.sum::<f64>()
    };
    const STEP: f32 = 1e-2;
    for (which, gradient) in got[1..].iter().enumerate() {
        for index in [0, gradient.len() / 2, gradient.len() - 1] {
            let moved = |step: f32| {
                let mut inputs = inputs.to_vec();
                let mut data = values(inputs[which].clone());
                data[index] += step;
                let shape = inputs[which].dims();
                inputs[which] = Tensor::from_data(TensorData::new(data, shape), &test_device());
                weighted(&inputs)
            };
            let slope = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
            let error = (slope - f64::from(gradient[index])).abs();
            assert!(
                error < 2e-2 * slope.abs().max(1.0),
                "gradient {which}[{index}]: {} for {slope}",
                gradient[index]
            );
        }
    }
}

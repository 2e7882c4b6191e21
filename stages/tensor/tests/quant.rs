//! Quantised matrices: their numbers, and linear layers on them.

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_tensor::device::test_device;
use dcsft_tensor::ops::{self, Activation, Adapter, Dropout, composed};
use dcsft_tensor::params::Param;
use dcsft_tensor::quant::{BLOCK, Bits, QuantError, dequantised, is_quantised, quantised};
use dcsft_tensor::rng::StreamKey;

const BITS: [(Bits, f32); 2] = [(Bits::Eight, 127.0), (Bits::Four, 7.0)];

/// Blocks in rows, in rows of one block, and in columns; the large ones are several threads' work.
const SHAPES: [[usize; 2]; 6] = [[64, 96], [5, 32], [32, 20], [96, 3], [1501, 96], [160, 300]];

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let tensor = match tensor.is_autodiff() {
        true => tensor.inner(),
        false => tensor,
    };
    tensor.into_data().try_to_vec().unwrap()
}

fn numbers(name: &str, count: usize) -> Vec<f32> {
    let mut stream = StreamKey::new("quant test", 0).text(name).stream();
    (0..count).map(|_| stream.normal() as f32).collect()
}

fn random(name: &str, shape: [usize; 2]) -> Tensor<2> {
    let data = TensorData::new(numbers(name, shape[0] * shape[1]), shape);
    Tensor::from_data(data, &test_device().autodiff())
}

/// A quantised matrix with a place in the autodiff graph, as a model's weights are.
fn held(values: &[f32], shape: [usize; 2], bits: Bits) -> Tensor<2> {
    let held = quantised(values, shape, bits, &test_device().autodiff()).unwrap();
    assert!(is_quantised(&held) && held.is_autodiff());
    assert_eq!(held.dims(), shape);
    held
}

fn seen(held: &Tensor<2>) -> Vec<f32> {
    values(dequantised(held, burn::tensor::DType::F32))
}

/// The largest magnitude in the block of a place.
fn largest(values: &[f32], [rows, columns]: [usize; 2], place: usize) -> f32 {
    let (row, column) = (place / columns, place % columns);
    let most = |places: &mut dyn Iterator<Item = usize>| {
        places.fold(0f32, |most, place| most.max(values[place].abs()))
    };
    match columns.is_multiple_of(BLOCK) {
        true => {
            let first = row * columns + column / BLOCK * BLOCK;
            most(&mut (first..first + BLOCK))
        }
        false => {
            let first = row / BLOCK * BLOCK;
            assert!(first + BLOCK <= rows);
            most(&mut (first..first + BLOCK).map(|row| row * columns + column))
        }
    }
}

#[test]
fn a_value_is_off_by_half_a_step_of_its_block_at_most() {
    for (bits, most) in BITS {
        for shape in SHAPES {
            let given = numbers("weight", shape[0] * shape[1]);
            let seen = seen(&held(&given, shape, bits));
            for (place, (value, seen)) in given.iter().zip(&seen).enumerate() {
                let step = largest(&given, shape, place) / most;
                assert!(
                    (value - seen).abs() <= step * 0.500_01,
                    "{bits:?} {shape:?} at {place}: {seen} for {value}, steps of {step}"
                );
            }
            // A quantised matrix is not the one that was given.
            assert_ne!(given, seen);
        }
    }
}

#[test]
fn whole_numbers_of_a_block_come_back_as_they_were() {
    for (bits, most) in BITS {
        for shape in SHAPES {
            let mut stream = StreamKey::new("whole numbers", 0).stream();
            let [rows, columns] = shape;
            let mut given: Vec<f32> = (0..rows * columns)
                .map(|_| stream.below(2 * most as u64 + 1) as f32 - most)
                .collect();
            // Each block has the largest number, with one sign or the other, so that its scale is a power of two.
            for row in (0..rows).step_by(if columns.is_multiple_of(BLOCK) {
                1
            } else {
                BLOCK
            }) {
                for column in (0..columns).step_by(if columns.is_multiple_of(BLOCK) {
                    BLOCK
                } else {
                    1
                }) {
                    let sign = if (row + column) % 3 == 0 { -1.0 } else { 1.0 };
                    let end = if columns.is_multiple_of(BLOCK) {
                        0
                    } else {
                        BLOCK - 1
                    };
                    given[(row + end) * columns + column] = sign * most;
                }
            }
            let halves: Vec<f32> = given.iter().map(|value| value * 0.5).collect();
            assert_eq!(
                seen(&held(&given, shape, bits)),
                given,
                "{bits:?} {shape:?}"
            );
            assert_eq!(
                seen(&held(&halves, shape, bits)),
                halves,
                "{bits:?} {shape:?}"
            );
        }
    }
}

#[test]
fn blocks_of_zeros_and_of_tiny_values_have_values_too() {
    let mut given = vec![0.0; 3 * BLOCK];
    given[BLOCK] = f32::from_bits(1);
    given[2 * BLOCK] = -4.0;
    for (bits, _) in BITS {
        let seen = seen(&held(&given, [3, BLOCK], bits));
        assert_eq!(seen[..BLOCK], given[..BLOCK]);
        assert!(
            seen[BLOCK..2 * BLOCK]
                .iter()
                .all(|value| value.abs() <= 1e-30)
        );
        assert_eq!(seen[2 * BLOCK], -4.0);
    }
}

#[test]
fn what_cannot_be_quantised_is_named() {
    let device = test_device();
    let shape = [20, 33];
    let error = quantised(&vec![1.0; 660], shape, Bits::Eight, &device).unwrap_err();
    assert_eq!(error, QuantError::Sizes { shape });
    let message = error.to_string();
    assert!(
        message.contains("20 x 33") && message.contains("multiple of 32"),
        "{message}"
    );
    for value in [f32::NAN, f32::INFINITY] {
        for (rows, first) in [(2, 40), (4000, 70_001)] {
            let mut given = vec![1.0; rows * 32];
            given[first..first + 2].fill(value);
            let error = quantised(&given, [rows, 32], Bits::Four, &device).unwrap_err();
            assert!(
                matches!(error, QuantError::NotFinite { place, .. } if place == first),
                "{error}"
            );
        }
    }
}

#[test]
fn the_cpu_reads_what_burn_reads() {
    if !dcsft_tensor::host::on_host(&random("any", [1, 1]).inner()) {
        return;
    }
    for (bits, _) in BITS {
        for shape in SHAPES {
            let held = held(&numbers("weight", shape[0] * shape[1]), shape, bits);
            assert_eq!(seen(&held), values(held.inner().dequantize()));
        }
    }
}

#[test]
fn a_quantised_weight_is_never_trained() {
    let mut param = Param {
        name: "weight".into(),
        value: held(&numbers("weight", 64), [2, 32], Bits::Eight),
        trainable: false,
        decay: true,
    };
    let before = seen(&param.value);
    for trainable in [true, false] {
        param.set_trainable(trainable);
        assert!(!param.trainable && is_quantised(&param.value));
        assert_eq!(seen(&param.value), before);
    }
}

fn on(tensor: &Tensor<2>, device: &Device) -> Tensor<2> {
    let data = TensorData::new(values(tensor.clone()), tensor.dims());
    Tensor::from_data(data, device)
}

/// The same numbers on the CPU.
fn here(tensor: &Tensor<2>) -> Tensor<2> {
    on(tensor, &Device::flex().autodiff())
}

/// Output, and gradients of a random weighting of it in the leaves.
fn run(leaves: &[Tensor<2>], f: impl Fn(&[Tensor<2>]) -> Tensor<2>) -> Vec<Vec<f32>> {
    let leaves: Vec<Tensor<2>> = leaves
        .iter()
        .map(|leaf| leaf.clone().inner().autodiff().require_grad())
        .collect();
    let out = f(&leaves);
    let weights = on(&random("weights", out.dims()), &out.device());
    let gradients = (out.clone() * weights).sum().backward();
    let of = |leaf: &Tensor<2>| values(leaf.grad(&gradients).expect("a gradient"));
    [values(out)]
        .into_iter()
        .chain(leaves.iter().map(of))
        .collect()
}

fn assert_close(what: &str, left: &[Vec<f32>], right: &[Vec<f32>], tolerance: f32) {
    assert_eq!(left.len(), right.len());
    for (which, (left, right)) in left.iter().zip(right).enumerate() {
        let size = right.iter().fold(1f32, |size, value| size.max(value.abs()));
        for (left, right) in left.iter().zip(right) {
            assert!(
                (left - right).abs() <= tolerance * size,
                "{what}: output or gradient {which}: {left} and {right}"
            );
        }
    }
}

#[test]
fn a_layer_computes_with_the_dequantised_weight_and_so_do_its_gradients() {
    let on_cpu = dcsft_tensor::host::on_host(&random("any", [1, 1]).inner());
    for (bits, _) in BITS {
        for [inputs, outputs] in [[64, 96], [32, 20], [20, 32], [256, 288]] {
            let given = numbers("weight", inputs * outputs);
            let held = held(&given, [inputs, outputs], bits);
            let whole = dequantised(&held, burn::tensor::DType::F32).autodiff();
            let bias = random("bias", [1, outputs]);
            for (rows, dropped) in [(1, None), (37, Some([0u32, 21, 40])), (300, None)] {
                let leaves = [
                    random("x", [rows, inputs]),
                    random("a", [inputs, 3]),
                    random("b", [3, outputs]),
                ];
                let adapter = |leaves: &[Tensor<2>]| Adapter {
                    a: leaves[1].clone(),
                    b: leaves[2].clone(),
                    scale: 0.5,
                    dropout: dropped.map(|dropped| Dropout::of(0.1, dropped)),
                };
                let adapted = |weight: &Tensor<2>| {
                    run(&leaves, |leaves| {
                        let (x, adapter) = (leaves[0].clone(), adapter(leaves));
                        ops::linear(x, weight, Some(&bias), Some(&adapter), Activation::Gelu)
                    })
                };
                let plain = |weight: &Tensor<2>| {
                    run(&leaves[..1], |leaves| {
                        ops::linear(
                            leaves[0].clone(),
                            weight,
                            Some(&bias),
                            None,
                            Activation::None,
                        )
                    })
                };
                let what = format!("{bits:?}, {inputs} x {outputs}, {rows} rows");
                for (own, right) in [
                    (adapted(&held), adapted(&whole)),
                    (plain(&held), plain(&whole)),
                ] {
                    match on_cpu {
                        true => assert_eq!(own, right, "{what}"),
                        false => assert_close(&what, &own, &right, 1e-5),
                    }
                }
                // By the CPU, where numbers of 32 bits are no less on any machine.
                let [whole, bias] = [&whole, &bias].map(here);
                let defined = run(&leaves.each_ref().map(here), |leaves| {
                    let (x, adapter) = (leaves[0].clone(), adapter(leaves));
                    composed::linear(x, &whole, Some(&bias), Some(&adapter), Activation::Gelu)
                });
                assert_close(&what, &adapted(&held), &defined, 2e-5);
                // What is compared is not the same whatever the weight is.
                let given = TensorData::new(given.clone(), [inputs, outputs]);
                let given = Tensor::from_data(given, &test_device().autodiff());
                assert_ne!(plain(&held)[0], plain(&given)[0]);
                assert_ne!(plain(&held)[1], plain(&given)[1]);
            }
        }
    }
}

#[test]
fn a_layer_outside_of_the_graph_stays_outside() {
    let held = held(&numbers("weight", 64 * 32), [64, 32], Bits::Four);
    let x = random("x", [3, 64]).inner();
    let out = ops::linear(x.clone(), &held, None, None, Activation::None);
    assert!(!out.is_autodiff());
    let plain = ops::linear(x, &held.inner(), None, None, Activation::None);
    assert_eq!(values(out), values(plain));
}

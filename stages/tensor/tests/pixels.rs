//! Pixels become numbers on a device as they do here. `DCSFT_TEST_DEVICE` names one.

use std::sync::Arc;

use burn::tensor::DType;
use dcsft_tensor::device::{computes_in, test_device};
use dcsft_tensor::host;
use dcsft_tensor::ops::{Column, Pixels};
use dcsft_tensor::rng::StreamKey;

/// Rows of `width` bytes, their columns in an order of their own, some of them more than once.
fn some(rows: usize, width: usize, columns: usize) -> Pixels {
    let mut stream = StreamKey::new("pixels test", (rows * width) as u64).stream();
    let mut below = |most: usize| stream.below(most as u64) as usize;
    let bytes = (0..rows * width).map(|_| below(256) as u8).collect();
    let column = |_| Column {
        byte: below(width) as u32,
        channel: below(3) as u8,
    };
    let columns = (0..columns).map(column).collect();
    let level = |channel: usize, byte: usize| (byte as f32 / 255.0 - 0.3) / (channel + 1) as f32;
    Pixels {
        bytes,
        width,
        columns,
        levels: Arc::new(std::array::from_fn(|channel| {
            std::array::from_fn(|byte| level(channel, byte))
        })),
    }
}

#[test]
fn a_device_makes_the_numbers_of_their_definition() {
    let device = test_device();
    for (rows, width, columns) in [
        (1, 1, 1),
        (5, 3, 7),
        (2, 588, 1176),
        (331, 27, 27),
        (0, 3, 3),
    ] {
        let pixels = some(rows, width, columns);
        let rows_of = pixels.bytes.chunks_exact(width);
        let of_row = |row: &[u8]| {
            let of = |column: &Column| {
                let byte = row[column.byte as usize];
                pixels.levels[usize::from(column.channel)][usize::from(byte)]
            };
            pixels.columns.iter().map(of).collect::<Vec<f32>>()
        };
        let expected: Vec<f32> = rows_of.flat_map(of_row).collect();
        for dtype in [DType::F32, DType::BF16] {
            if !computes_in(&device, dtype) {
                continue;
            }
            for device in [device.clone(), device.clone().autodiff()] {
                let tensor = pixels.on(&device, dtype);
                assert_eq!(tensor.is_autodiff(), device.is_autodiff());
                assert_eq!((tensor.dims(), tensor.dtype()), ([rows, columns], dtype));
                let rounded = |&value: &f32| match dtype {
                    DType::BF16 => half::bf16::from_f32(value).to_f32(),
                    _ => value,
                };
                let expected: Vec<f32> = expected.iter().map(rounded).collect();
                assert_eq!(host::values(tensor).unwrap(), expected);
            }
        }
    }
}

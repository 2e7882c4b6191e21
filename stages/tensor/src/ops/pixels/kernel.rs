//! A unit makes one value of a byte.

use burn::backend::Cube;
use burn::tensor::{DType, Device, Int, Tensor as BurnTensor, TensorData};
use cubecl::prelude::*;

use crate::host::send;
use crate::ops::cube::{UNITS, by_dtype, cubes_for, floats, integers};

/// Bytes of a word, the first in its lowest bits.
const BYTES: usize = 4;

/// The numbers of `bytes`, of which each row has `width`: `[rows, columns]` in the type `dtype`. Of a column `columns` says
/// byte and channel, of a channel `levels` what each byte becomes.
pub(super) fn make(
    (bytes, width): (&[u8], usize),
    columns: &[[u32; 2]],
    levels: &[[f32; 256]],
    (device, dtype): (&Device, DType),
) -> BurnTensor<2> {
    let shape = [bytes.len() / width, columns.len()];
    let count = shape[0] * shape[1];
    let out = BurnTensor::<2>::empty(shape, (device, dtype));
    if count == 0 {
        return out;
    }
    let on = (device, DType::U32);
    let words = words(bytes);
    let length = words.len();
    let bytes: BurnTensor<1, Int> = send(TensorData::new(words, [length]), on);
    let columns = TensorData::new(columns.concat(), [columns.len(), 2]);
    let columns: BurnTensor<2, Int> = send(columns, on);
    let levels = TensorData::new(levels.concat(), [levels.len(), 256]);
    let levels: BurnTensor<2> = send(levels, (device, DType::F32));
    let out = floats(&out);
    let client = out.client.clone();
    by_dtype!(dtype, F => pixels_kernel::launch::<F>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        integers(&bytes).into_tensor_arg(),
        integers(&columns).into_tensor_arg(),
        floats(&levels).into_tensor_arg(),
        out.clone().into_tensor_arg(),
        width,
    ));
    BurnTensor::from_primitive::<Cube>(out)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let (whole, rest) = bytes.as_chunks::<BYTES>();
    let mut words: Vec<u32> = whole.iter().map(|&word| u32::from_le_bytes(word)).collect();
    if !rest.is_empty() {
        let mut last = [0; BYTES];
        last[..rest.len()].copy_from_slice(rest);
        words.push(u32::from_le_bytes(last));
    }
    words
}

/// `bytes`: words of four; `columns`: `[columns, 2]`, byte and channel; `levels`: `[channels, 256]`; `out`:
/// `[rows, columns]`.
#[cube(launch)]
fn pixels_kernel<F: Float>(
    bytes: &Tensor<u32>,
    columns: &Tensor<u32>,
    levels: &Tensor<f32>,
    out: &mut Tensor<F>,
    width: usize,
) {
    if ABSOLUTE_POS < out.len() {
        let count = out.shape(1);
        let (row, column) = (ABSOLUTE_POS / count, ABSOLUTE_POS % count);
        let entry = column * columns.stride(0);
        let at = row * width + columns[entry] as usize;
        let channel = columns[entry + columns.stride(1)] as usize;
        let shift = (at % BYTES * 8) as u32;
        let byte = (bytes[at / BYTES] >> shift) & 255;
        let level = levels[channel * levels.stride(0) + byte as usize * levels.stride(1)];
        let place = row * out.stride(0) + column * out.stride(1);
        out[place] = F::cast_from(level);
    }
}

//! Matrices held in blocks of whole numbers of 8 or 4 bits, with a scale for each block.
//!
//! A value is `scale * number`, rounded once to 32 bits; numbers go from -127 to 127, or from -7 to 7, and a scale is a
//! block's largest magnitude divided by the largest number. Blocks are [`BLOCK`] values that follow each other in a
//! row, or in a column where rows are no whole number of blocks. This process quantises, not a device, so that all
//! devices hold the same numbers; a tensor is one of burn's quantised ones, packed into words of 32 bits on a device
//! and a byte for each number on the CPU.

use burn::backend::{BackendTensor, DispatchKindConversion, DispatchTensor, Flex};
use burn::tensor::quantization::{BlockSize, QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use rayon::prelude::*;

use crate::host::{self, on_host};
use crate::kernels::parallel;

/// Values that share a scale.
pub const BLOCK: usize = 32;
/// Bytes of a scale, which has 32 bits.
const SCALE_BYTES: usize = 4;
/// Bytes of a word that numbers are packed into.
const WORD: usize = 4;
/// Values, or words, that a thread works on at a time: whole blocks.
const PIECE: usize = 512 * BLOCK;

/// How many bits a number has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// From -127 to 127.
    Eight,
    /// From -7 to 7.
    Four,
}

impl Bits {
    /// The largest number.
    fn most(self) -> f32 {
        match self {
            Self::Eight => 127.0,
            Self::Four => 7.0,
        }
    }

    fn value(self) -> QuantValue {
        match self {
            Self::Eight => QuantValue::Q8S,
            Self::Four => QuantValue::Q4S,
        }
    }

    /// Bytes that so many values take with their scales. The CPU has no numbers of 4 bits: there a number is a byte.
    pub fn bytes(self, values: usize, on_cpu: bool) -> usize {
        let numbers = match (self, on_cpu) {
            (Self::Four, false) => values / 2,
            _ => values,
        };
        numbers + values / BLOCK * SCALE_BYTES
    }
}

/// Why a matrix cannot be quantised.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum QuantError {
    /// Neither its rows nor its columns are whole blocks.
    #[error(
        "a matrix of {} x {} is quantised in blocks of {BLOCK} values of a row or a column, and neither of its sizes is a \
         multiple of {BLOCK}",
        shape[0],
        shape[1]
    )]
    Sizes {
        /// Rows and columns.
        shape: [usize; 2],
    },
    /// A value has no place between two others.
    #[error("the value {value} at place {place} is no number that can be quantised")]
    NotFinite {
        /// Its place, row by row.
        place: usize,
        /// The value.
        value: f32,
    },
}

/// Which way blocks lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Along {
    Row,
    Column,
}

impl Along {
    fn of(shape: [usize; 2]) -> Result<Self, QuantError> {
        match shape.map(|size| size > 0 && size.is_multiple_of(BLOCK)) {
            [_, true] => Ok(Self::Row),
            [true, false] => Ok(Self::Column),
            [false, false] => Err(QuantError::Sizes { shape }),
        }
    }

    /// Rows and columns of scales.
    fn scales(self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::Row => [rows, columns / BLOCK],
            Self::Column => [rows / BLOCK, columns],
        }
    }
}

/// Whether a matrix of this shape can be quantised.
///
/// # Errors
/// [`QuantError::Sizes`].
pub fn check_sizes(shape: [usize; 2]) -> Result<(), QuantError> {
    Along::of(shape).map(drop)
}

/// A matrix of the shape `shape`, given row by row, quantised on `device`.
///
/// # Errors
/// [`QuantError`]: a shape without whole blocks, or a value that is none.
///
/// # Panics
/// If there are not as many values as the shape says.
pub fn quantised(
    values: &[f32],
    shape: [usize; 2],
    bits: Bits,
    device: &Device,
) -> Result<Tensor<2>, QuantError> {
    assert_eq!(values.len(), shape[0] * shape[1], "a value for each place");
    let along = Along::of(shape)?;
    finite(values)?;
    let (numbers, scales) = numbers(values, shape, along, bits);
    let on_cpu = device.clone().inner() == Device::flex();
    let store = match (on_cpu, along) {
        (true, _) => QuantStore::Native,
        (false, Along::Row) => QuantStore::PackedU32(0),
        (false, Along::Column) => QuantStore::PackedU32(1),
    };
    let block = match along {
        Along::Row => BlockSize::new([1, BLOCK as u8]),
        Along::Column => BlockSize::new([BLOCK as u8, 1]),
    };
    let scheme = QuantScheme::default()
        .with_value(bits.value())
        .with_store(store)
        .per_block(block.as_slice(), ScaleDtype::F32);
    if on_cpu {
        let data = TensorData::quantized(numbers, shape, scheme, &scales, None);
        return Ok(host::send(data, device));
    }
    let [rows, columns] = shape;
    // Words lie along blocks: a device's rows are this matrix's columns.
    let (numbers, scales) = match along {
        Along::Row => (numbers, scales),
        Along::Column => (
            turned(&numbers, columns),
            turned(&scales, along.scales([rows, columns])[1]),
        ),
    };
    let mut bytes = packed(&numbers, bits);
    bytes.extend(scales.iter().flat_map(|scale| scale.to_ne_bytes()));
    let data = TensorData::from_bytes_vec(bytes, shape, DType::QFloat(scheme));
    Ok(host::send(data, device))
}

/// All values are numbers.
fn finite(values: &[f32]) -> Result<(), QuantError> {
    let any = |values: &[f32]| values.iter().any(|value| !value.is_finite());
    let Some(piece) = values.par_chunks(PIECE).position_first(any) else {
        return Ok(());
    };
    let first = piece * PIECE;
    let bad = values[first..].iter().position(|value| !value.is_finite());
    let place = first + bad.expect("the piece has one");
    let value = values[place];
    Err(QuantError::NotFinite { place, value })
}

/// The numbers of all values, row by row, and the scales of all blocks.
fn numbers(
    values: &[f32],
    [_, columns]: [usize; 2],
    along: Along,
    bits: Bits,
) -> (Vec<i8>, Vec<f32>) {
    let piece = match along {
        Along::Row => PIECE,
        Along::Column => BLOCK * columns.max(1),
    };
    let mut numbers = vec![0; values.len()];
    let mut scales = vec![0.0; values.len() / BLOCK];
    let pieces = (
        values.par_chunks(piece),
        numbers.par_chunks_mut(piece),
        scales.par_chunks_mut(piece / BLOCK),
    );
    pieces
        .into_par_iter()
        .for_each(|(values, numbers, scales)| match along {
            Along::Row => row_blocks(values, numbers, scales, bits.most()),
            Along::Column => column_blocks(values, numbers, scales, bits.most()),
        });
    (numbers, scales)
}

/// Blocks that follow each other.
fn row_blocks(values: &[f32], numbers: &mut [i8], scales: &mut [f32], most: f32) {
    let blocks = values
        .chunks_exact(BLOCK)
        .zip(numbers.chunks_exact_mut(BLOCK));
    for ((values, numbers), scale) in blocks.zip(scales) {
        *scale = values
            .iter()
            .fold(0f32, |most, value| most.max(value.abs()))
            / most;
        for (number, &value) in numbers.iter_mut().zip(values) {
            *number = number_of(value, *scale, most);
        }
    }
}

/// Blocks that stand beside each other, a row of them.
fn column_blocks(values: &[f32], numbers: &mut [i8], scales: &mut [f32], most: f32) {
    let columns = scales.len();
    for row in values.chunks_exact(columns) {
        for (scale, value) in scales.iter_mut().zip(row) {
            *scale = scale.max(value.abs());
        }
    }
    for scale in scales.iter_mut() {
        *scale /= most;
    }
    let rows = values
        .chunks_exact(columns)
        .zip(numbers.chunks_exact_mut(columns));
    for (values, numbers) in rows {
        for ((number, &value), &scale) in numbers.iter_mut().zip(values).zip(&*scales) {
            *number = number_of(value, scale, most);
        }
    }
}

fn number_of(value: f32, scale: f32, most: f32) -> i8 {
    // A block of zeros, or of values so small that a scale for them is zero.
    if scale == 0.0 {
        return 0;
    }
    (value / scale).round().clamp(-most, most) as i8
}

/// The columns of a matrix of `columns` columns, one after another.
fn turned<T: Copy + Default + Send + Sync>(values: &[T], columns: usize) -> Vec<T> {
    let mut out = vec![T::default(); values.len()];
    let each = out.par_chunks_exact_mut((values.len() / columns.max(1)).max(1));
    each.enumerate().for_each(|(column, out)| {
        let column = values[column..].iter().step_by(columns);
        out.iter_mut()
            .zip(column)
            .for_each(|(out, &value)| *out = value);
    });
    out
}

/// Words of 32 bits in the order of the numbers, the first in the lowest bits.
fn packed(numbers: &[i8], bits: Bits) -> Vec<u8> {
    let each = match bits {
        Bits::Eight => 4,
        Bits::Four => 8,
    };
    let width = 32 / each;
    let mask = u32::MAX >> (32 - width);
    let word = |numbers: &[i8]| {
        let fields = numbers.iter().enumerate();
        fields.fold(0, |word, (index, &number)| {
            word | (i32::from(number) as u32 & mask) << (index * width)
        })
    };
    let mut bytes = vec![0; numbers.len() / each * WORD];
    let pieces = bytes
        .par_chunks_mut(PIECE * WORD)
        .zip(numbers.par_chunks(PIECE * each));
    pieces.for_each(|(bytes, numbers)| {
        let words = bytes.chunks_exact_mut(WORD).zip(numbers.chunks_exact(each));
        words.for_each(|(bytes, numbers)| bytes.copy_from_slice(&word(numbers).to_ne_bytes()));
    });
    bytes
}

/// Whether a matrix is held quantised.
pub fn is_quantised(tensor: &Tensor<2>) -> bool {
    matches!(tensor.dtype(), DType::QFloat(_))
}

/// The values of a quantised matrix in a type of floats, with no place in the autodiff graph; another matrix as it is.
pub fn dequantised(tensor: &Tensor<2>, dtype: DType) -> Tensor<2> {
    let DType::QFloat(scheme) = tensor.dtype() else {
        return tensor.clone();
    };
    let tensor = match tensor.is_autodiff() {
        true => tensor.clone().inner(),
        false => tensor.clone(),
    };
    let wide = match on_host(&tensor) {
        true => on_cpu(tensor, &scheme),
        false => tensor.dequantize(),
    };
    match wide.dtype() == dtype {
        true => wide,
        false => wide.cast(FloatDType::from(dtype)),
    }
}

/// Burn's own goes through the values one by one on one thread.
fn on_cpu(tensor: Tensor<2>, scheme: &QuantScheme) -> Tensor<2> {
    let shape = tensor.dims();
    let held = <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(
        tensor.clone().into_dispatch(),
    );
    let Ok(BackendTensor::Quantized(held)) = held else {
        return tensor.dequantize();
    };
    let numbers = held.tensor().to_contiguous();
    let (Some(numbers), Some(along)) = (numbers.as_slice::<i8>(), blocks(scheme)) else {
        return tensor.dequantize();
    };
    let values = dequantise(numbers, held.scales(), shape, along);
    Tensor::from_data(
        TensorData::new(values, shape),
        (&Device::flex(), DType::F32),
    )
}

/// Which way the blocks of a scheme lie; none for blocks that are not made here.
fn blocks(scheme: &QuantScheme) -> Option<Along> {
    let block = scheme.block_size()?.to_dim_vec(2);
    match block[..] {
        [1, size] if usize::from(size) == BLOCK => Some(Along::Row),
        [size, 1] if usize::from(size) == BLOCK => Some(Along::Column),
        _ => None,
    }
}

fn dequantise(numbers: &[i8], scales: &[f32], shape: [usize; 2], along: Along) -> Vec<f32> {
    let [rows, columns] = shape;
    let [_, width] = along.scales(shape);
    let mut values = vec![0.0; rows * columns];
    parallel::rows(&mut values, columns, |first, out| {
        for (index, out) in out.chunks_exact_mut(columns).enumerate() {
            let row = first + index;
            let numbers = &numbers[row * columns..][..columns];
            match along {
                Along::Row => {
                    let scales = &scales[row * width..][..width];
                    let blocks = out.chunks_exact_mut(BLOCK).zip(numbers.chunks_exact(BLOCK));
                    for ((out, numbers), scale) in blocks.zip(scales) {
                        for (value, &number) in out.iter_mut().zip(numbers) {
                            *value = scale * f32::from(number);
                        }
                    }
                }
                Along::Column => {
                    let scales = &scales[row / BLOCK * width..][..width];
                    for ((value, &number), scale) in out.iter_mut().zip(numbers).zip(scales) {
                        *value = scale * f32::from(number);
                    }
                }
            }
        }
    });
    values
}

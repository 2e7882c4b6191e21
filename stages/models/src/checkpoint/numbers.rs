//! Numbers of a tensor in a file.

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::Dtype;

/// The first number that is none or infinite, with its place.
pub(super) fn first_not_finite(bytes: &[u8], dtype: Dtype) -> Option<(usize, f32)> {
    /// Numbers that a thread looks at in one go.
    const PIECE: usize = 1 << 16;
    let size = if dtype == Dtype::F32 { 4 } else { 2 };
    let pieces = bytes.par_chunks(PIECE * size).enumerate();
    pieces
        .filter_map(|(piece, bytes)| {
            let is_bad = match dtype {
                // All bits of the exponent are set.
                Dtype::BF16 => bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .any(|&word| u16::from_le_bytes(word) & 0x7f80 == 0x7f80),
                Dtype::F16 => bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .any(|&word| u16::from_le_bytes(word) & 0x7c00 == 0x7c00),
                _ => bytes
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .any(|&word| u32::from_le_bytes(word) & 0x7f80_0000 == 0x7f80_0000),
            };
            let values = is_bad.then(|| floats(bytes, dtype))?;
            let at = values.iter().position(|value| !value.is_finite())?;
            Some((piece * PIECE + at, values[at]))
        })
        .min_by_key(|(at, _)| *at)
}

/// Little-endian values of one of the three types as 32-bit floats.
pub(super) fn floats(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::BF16 => {
            let words = bytes.as_chunks::<2>().0.par_iter();
            words
                .map(|&word| bf16::from_le_bytes(word).to_f32())
                .collect()
        }
        Dtype::F16 => {
            let words = bytes.as_chunks::<2>().0.par_iter();
            words
                .map(|&word| f16::from_le_bytes(word).to_f32())
                .collect()
        }
        _ => {
            let words = bytes.as_chunks::<4>().0.par_iter();
            words.map(|&word| f32::from_le_bytes(word)).collect()
        }
    }
}

/// The transpose of a row-major matrix of `columns` columns, in blocks that fit the first cache.
pub(crate) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    const BLOCK: usize = 32;
    let rows = values.len() / columns.max(1);
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut((BLOCK * rows).max(1))
        .enumerate()
        .for_each(|(block, out)| {
            let first = block * BLOCK;
            let width = out.len() / rows;
            for start in (0..rows).step_by(BLOCK) {
                for row in start..rows.min(start + BLOCK) {
                    let line = &values[row * columns + first..][..width];
                    for (column, &value) in line.iter().enumerate() {
                        out[column * rows + row] = value;
                    }
                }
            }
        });
    out
}

//! Cutting work into pieces for rayon. Where a piece begins depends on the work alone, never on the threads.

use rayon::prelude::*;

/// Rows per piece: enough that handing a piece to a thread costs little beside computing it.
const ROWS: usize = 128;

/// Calls `f(first row, rows of out)` for pieces of the rows.
pub(crate) fn rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    two_rows(out, width, &mut [], 0, |first, out, _| f(first, out));
}

/// Calls `f(first row, rows of a, rows of b)` for pieces of the rows of two matrices.
pub(crate) fn two_rows(
    a: &mut [f32],
    a_width: usize,
    b: &mut [f32],
    b_width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    if a.len() <= ROWS * a_width {
        return f(0, a, b);
    }
    let pieces = a.par_chunks_mut(ROWS * a_width).enumerate();
    if b.is_empty() {
        pieces.for_each(|(index, a)| f(index * ROWS, a, &mut []));
    } else {
        pieces.zip(b.par_chunks_mut(ROWS * b_width)).for_each(|((index, a), b)| f(index * ROWS, a, b));
    }
}

/// Calls `f(first row, rows of out, sums)` for pieces of the rows, each with sums of its own that start at zero;
/// gives the sums of all pieces, added in order.
pub(crate) fn rows_and_sums(
    out: &mut [f32],
    width: usize,
    sums: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let piece = |first: usize, out: &mut [f32]| {
        let mut own = vec![0.0; sums];
        f(first, out, &mut own);
        own
    };
    if out.len() <= ROWS * width {
        return piece(0, out);
    }
    let pieces = out.par_chunks_mut(ROWS * width).enumerate();
    let all: Vec<Vec<f32>> = pieces.map(|(index, out)| piece(index * ROWS, out)).collect();
    let mut total = vec![0.0; sums];
    for own in all {
        for (total, value) in total.iter_mut().zip(own) {
            *total += value;
        }
    }
    total
}

//! Cutting work into pieces for rayon. Where a piece begins depends on the work alone, never on the threads.

use rayon::prelude::*;

/// Rows per piece: enough that handing a piece to a thread costs little beside computing it.
pub(crate) const ROWS: usize = 128;

/// Calls `f` for each piece of work, on this thread if there is no other: entering the pool from outside costs
/// more than a small operation.
pub(crate) fn for_each<T: Send>(work: Vec<T>, f: impl Fn(T) + Sync + Send) {
    if work.len() < 2 || rayon::current_num_threads() == 1 {
        work.into_iter().for_each(f);
    } else {
        work.into_par_iter().for_each(f);
    }
}

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
    let mut b = b.chunks_mut((ROWS * b_width).max(1));
    let pieces = a
        .chunks_mut(ROWS * a_width)
        .map(|a| (a, b.next().unwrap_or_default()))
        .enumerate();
    for_each(pieces.collect(), |(index, (a, b))| f(index * ROWS, a, b));
}

/// Calls `f(first row, rows of out, sums)` for pieces of the rows, each with sums of its own that start at zero;
/// gives the sums of all pieces, added in order.
pub(crate) fn rows_and_sums(
    out: &mut [f32],
    width: usize,
    sums: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut total = vec![0.0; sums];
    if out.len() <= ROWS * width {
        f(0, out, &mut total);
        return total;
    }
    let mut all = vec![0.0; out.len().div_ceil(ROWS * width) * sums];
    let mut own = all.chunks_mut(sums.max(1));
    let pieces = out
        .chunks_mut(ROWS * width)
        .map(|out| (out, own.next().unwrap_or_default()))
        .enumerate();
    for_each(pieces.collect(), |(index, (out, own))| {
        f(index * ROWS, out, own)
    });
    for own in all.chunks(sums.max(1)) {
        for (total, value) in total.iter_mut().zip(own) {
            *total += value;
        }
    }
    total
}

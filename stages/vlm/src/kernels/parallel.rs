//! Cutting work into pieces for rayon. Where a piece begins depends on the work alone, never on the threads.

use rayon::prelude::*;

/// Rows per piece: enough that handing a piece to a thread costs little beside computing it.
pub(crate) const ROWS: usize = 128;

/// Calls `f(first row, rows of out)` for pieces of [`ROWS`] rows.
pub(crate) fn rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() <= ROWS * width {
        return f(0, out);
    }
    out.par_chunks_mut(ROWS * width).enumerate().for_each(|(index, out)| f(index * ROWS, out));
}

/// Sums over rows: `f(range of rows, partial sums)` for pieces of [`ROWS`] rows, then the partial sums in order.
pub(crate) fn sum_rows(count: usize, size: usize, f: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync) -> Vec<f32> {
    let partial = |index: usize| {
        let mut partial = vec![0.0; size];
        f(index * ROWS..((index + 1) * ROWS).min(count), &mut partial);
        partial
    };
    let pieces = count.div_ceil(ROWS);
    if pieces <= 1 {
        return partial(0);
    }
    let partials: Vec<Vec<f32>> = (0..pieces).into_par_iter().map(partial).collect();
    let mut total = vec![0.0; size];
    for partial in partials {
        for (total, value) in total.iter_mut().zip(partial) {
            *total += value;
        }
    }
    total
}

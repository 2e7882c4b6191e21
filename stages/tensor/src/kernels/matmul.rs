//! Matrix products.

mod packed;
mod tile;

use packed::{Right, last_panel, packed, part_of};
pub(crate) use tile::Left;
use tile::{PANEL, panels};

/// Fewer rows of the result do not pay for packing.
const PACK_ROWS: usize = 16;
/// Right factors of fewer values are read in place.
const PACK_SIZE: usize = 1 << 16;

/// `out += x @ w` with `x`: `[rows, inner]`, `w`: `[inner, columns]` and `out`: `[rows, columns]`, the last two
/// row-major with `w_width` and `out_width` values from one row to the next.
///
/// Each element of the result is summed in order of the inner index with fused multiply-adds, starting from
/// what is there.
///
/// # Panics
/// If a slice is too short for the sizes.
#[expect(
    clippy::too_many_arguments,
    reason = "the sizes and strides of three matrices"
)]
pub(crate) fn add_product(
    rows: usize,
    inner: usize,
    columns: usize,
    x: Left,
    w: &[f32],
    w_width: usize,
    out: &mut [f32],
    out_width: usize,
) {
    add(rows, inner, columns, x, w, w_width, out, out_width, false);
}

/// As [`add_product`]; but the products are summed by themselves, from zero on, and then added to what is there; those
/// of a long sum in [`parts`](part_of) one after another. The longer a sum gets, the more of each further term is
/// rounded away: parts keep long sums as exact as short ones.
///
/// # Panics
/// If a slice is too short for the sizes.
#[expect(
    clippy::too_many_arguments,
    reason = "the sizes and strides of three matrices"
)]
pub(crate) fn add_product_in_parts(
    rows: usize,
    inner: usize,
    columns: usize,
    x: Left,
    w: &[f32],
    w_width: usize,
    out: &mut [f32],
    out_width: usize,
) {
    add(rows, inner, columns, x, w, w_width, out, out_width, true);
}

#[expect(clippy::too_many_arguments, reason = "as add_product")]
fn add(
    rows: usize,
    inner: usize,
    columns: usize,
    x: Left,
    w: &[f32],
    w_width: usize,
    out: &mut [f32],
    out_width: usize,
    apart: bool,
) {
    if rows == 0 || inner == 0 || columns == 0 {
        return;
    }
    check(rows, inner, columns, x, out, out_width);
    assert!(
        w.len() >= (inner - 1) * w_width + columns,
        "right factor too short"
    );
    if rows >= PACK_ROWS && inner * w_width >= PACK_SIZE {
        let right = Right::Plain { w, width: w_width };
        return packed(rows, inner, columns, x, right, out, out_width, apart);
    }
    let depth = if apart { part_of(inner) } else { inner };
    for first in (0..inner).step_by(depth) {
        let part = depth.min(inner - first);
        let (x, w) = (x.from(first), &w[first * w_width..]);
        in_place(rows, part, columns, x, w, w_width, out, out_width, apart);
    }
}

/// A product whose right factor is read where it lies.
#[expect(clippy::too_many_arguments, reason = "as add_product")]
fn in_place(
    rows: usize,
    inner: usize,
    columns: usize,
    x: Left,
    w: &[f32],
    w_width: usize,
    out: &mut [f32],
    out_width: usize,
    apart: bool,
) {
    let whole = columns - columns % PANEL;
    if whole > 0 {
        panels(rows, inner, whole, x, w, w_width, out, out_width, apart);
    }
    if whole < columns {
        // The last columns as a panel of their own, filled up with zeros.
        let rest = columns - whole;
        let mut padded = vec![0.0; inner * PANEL];
        for (padded, row) in padded.chunks_exact_mut(PANEL).zip(w.chunks(w_width)) {
            padded[..rest].copy_from_slice(&row[whole..columns]);
        }
        let out = &mut out[whole..];
        last_panel(rows, inner, x, &padded, rest, out, out_width, apart);
    }
}

/// As [`add_product`] with the right factor transposed: `out += x @ w^T`, `w`: `[columns, inner]`, row-major with
/// `w_width` values from one row to the next.
///
/// # Panics
/// If a slice is too short for the sizes.
#[expect(
    clippy::too_many_arguments,
    reason = "the sizes and strides of three matrices"
)]
pub(crate) fn add_product_transposed(
    rows: usize,
    inner: usize,
    columns: usize,
    x: Left,
    w: &[f32],
    w_width: usize,
    out: &mut [f32],
    out_width: usize,
) {
    if rows == 0 || inner == 0 || columns == 0 {
        return;
    }
    check(rows, inner, columns, x, out, out_width);
    assert!(
        w.len() >= (columns - 1) * w_width + inner,
        "right factor too short"
    );
    let right = Right::Transposed { w, width: w_width };
    packed(rows, inner, columns, x, right, out, out_width, false);
}

fn check(rows: usize, inner: usize, columns: usize, x: Left, out: &[f32], out_width: usize) {
    assert!(
        x.values.len() > (rows - 1) * x.row + (inner - 1) * x.inner,
        "left factor too short"
    );
    assert!(
        out.len() >= (rows - 1) * out_width + columns,
        "result too short"
    );
}

/// Adds `row` to each row of `out`.
pub(crate) fn add_row(row: &[f32], out: &mut [f32]) {
    for out in out.chunks_exact_mut(row.len()) {
        for (out, value) in out.iter_mut().zip(row) {
            *out += value;
        }
    }
}

#[cfg(test)]
mod tests;

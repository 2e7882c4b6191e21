//! Matrix products.

mod packed;
mod tile;

use super::matrix::{MatMut, MatRef};
use packed::{last_panel, packed, part_of};
use tile::{PANEL, panels};

/// Fewer rows of the result do not pay for packing.
const PACK_ROWS: usize = 16;
/// Right factors of fewer values are read in place.
const PACK_SIZE: usize = 1 << 16;

/// `out += x @ w`; of `w` rows or columns lie in one piece.
///
/// Each element of the result is summed in order of the inner index with fused multiply-adds, starting from
/// what is there.
///
/// # Panics
/// If the sizes do not fit together.
pub(crate) fn add_product(x: MatRef<'_>, w: MatRef<'_>, out: MatMut<'_>) {
    add(x, w, out, false);
}

/// As [`add_product`]; but the products are summed by themselves, from zero on, and then added to what is there; those
/// of a long sum in [`parts`](part_of) one after another. The longer a sum gets, the more of each further term is
/// rounded away: parts keep long sums as exact as short ones.
///
/// # Panics
/// If the sizes do not fit together.
pub(crate) fn add_product_in_parts(x: MatRef<'_>, w: MatRef<'_>, out: MatMut<'_>) {
    add(x, w, out, true);
}

fn add(x: MatRef<'_>, w: MatRef<'_>, mut out: MatMut<'_>, apart: bool) {
    let (rows, inner, columns) = (x.rows(), x.columns(), w.columns());
    assert_eq!(w.rows(), inner, "rows of the right factor");
    assert_eq!([out.rows(), out.columns()], [rows, columns], "the result");
    if rows == 0 || inner == 0 || columns == 0 {
        return;
    }
    let [down, along] = w.strides();
    let large = rows >= PACK_ROWS && inner * down >= PACK_SIZE;
    if along != 1 || large {
        return packed(x, w, out, apart);
    }
    let depth = if apart { part_of(inner) } else { inner };
    for first in (0..inner).step_by(depth) {
        let part = depth.min(inner - first);
        let (x, w) = (x.columns_from(first, part), w.rows_from(first, part));
        in_place(x, w, &mut out, apart);
    }
}

/// A product whose right factor is read where it lies.
fn in_place(x: MatRef<'_>, w: MatRef<'_>, out: &mut MatMut<'_>, apart: bool) {
    let (inner, columns) = (w.rows(), w.columns());
    let whole = columns - columns % PANEL;
    if whole > 0 {
        panels(x, w, out.columns_from(0, whole), apart);
    }
    if whole < columns {
        // The last columns as a panel of their own, filled up with zeros.
        let rest = columns - whole;
        let mut padded = vec![0.0; inner * PANEL];
        for (row, padded) in padded.chunks_exact_mut(PANEL).enumerate() {
            padded[..rest].copy_from_slice(&w.row(row)[whole..]);
        }
        let panel = MatRef::new(&padded, [inner, PANEL]);
        last_panel(x, panel, out.columns_from(whole, rest), apart);
    }
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

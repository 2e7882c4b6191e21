//! Right factors copied into panels.

use std::ops::Range;

use super::tile::{PANEL, panels};
use crate::kernels::matrix::{MatMut, MatRef};

/// Columns of a packed panel.
const WIDE: usize = 2 * PANEL;
/// Inner rows of a packed panel at most: it takes 24 KiB.
const DEPTH: usize = 192;

/// Copies `columns` (at most [`WIDE`]) columns of some inner rows of the right factor `w` into `panel`, `[rows, WIDE]`,
/// zeros behind them.
fn pack(w: MatRef<'_>, inner: Range<usize>, columns: Range<usize>, panel: &mut [f32]) {
    let (count, values) = (columns.len(), w.values());
    let [down, along] = w.strides();
    if along == 1 {
        for (row, panel) in inner.zip(panel.chunks_exact_mut(WIDE)) {
            panel[..count].copy_from_slice(&values[row * down + columns.start..][..count]);
            panel[count..].fill(0.0);
        }
        return;
    }
    // Blocks of sixteen rows of the panel stay in the first cache while all columns are written.
    for (block, rows) in panel.chunks_mut(16 * WIDE).zip(inner.clone().step_by(16)) {
        for (column, from) in columns.clone().enumerate() {
            let line = &values[from * along + rows..][..block.len() / WIDE];
            for (panel, &value) in block.chunks_exact_mut(WIDE).zip(line) {
                panel[column] = value;
            }
        }
        if count < WIDE {
            block
                .chunks_exact_mut(WIDE)
                .for_each(|panel| panel[count..].fill(0.0));
        }
    }
}

/// Terms of a part of a sum of `inner` terms: all up to [`DEPTH`], half of them up to twice that, then [`DEPTH`]. So
/// does the single-precision product of Intel's MKL, which PyTorch calls: both round in the same places.
pub(super) fn part_of(inner: usize) -> usize {
    match inner > DEPTH {
        true => DEPTH.min(inner / 2),
        false => inner,
    }
}

/// A product whose right factor is copied panel by panel into one piece of memory that fits the first cache: a matrix
/// of many columns is spread over so many pages that reading it in place costs more.
///
/// # Panics
/// If neither rows nor columns of the right factor lie in one piece.
pub(super) fn packed(x: MatRef<'_>, w: MatRef<'_>, mut out: MatMut<'_>, apart: bool) {
    assert!(
        w.strides().contains(&1),
        "the right factor is scattered both ways"
    );
    let (inner, columns) = (w.rows(), w.columns());
    let depth = part_of(inner);
    let mut panel = vec![0.0; depth * WIDE];
    for first in (0..inner).step_by(depth) {
        let part = first..inner.min(first + depth);
        let x = x.columns_from(first, part.len());
        for column in (0..columns).step_by(WIDE) {
            let count = WIDE.min(columns - column);
            let panel = &mut panel[..part.len() * WIDE];
            pack(w, part.clone(), column..column + count, panel);
            let panel = MatRef::new(panel, [part.len(), WIDE]);
            let out = out.columns_from(column, count);
            match count == WIDE {
                true => panels(x, panel, out, apart),
                false => last_panel(x, panel, out, apart),
            }
        }
    }
}

/// The product with a zero-filled panel of which as many columns count as `out` has.
pub(super) fn last_panel(x: MatRef<'_>, panel: MatRef<'_>, mut out: MatMut<'_>, apart: bool) {
    let (rows, columns, width) = (x.rows(), out.columns(), panel.columns());
    let mut result = vec![0.0; rows * width];
    for (result, row) in result.chunks_exact_mut(width).zip(out.each_row()) {
        result[..columns].copy_from_slice(row);
    }
    panels(x, panel, MatMut::new(&mut result, [rows, width]), apart);
    for (result, row) in result.chunks_exact(width).zip(out.each_row()) {
        row.copy_from_slice(&result[..columns]);
    }
}

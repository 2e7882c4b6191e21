//! Right factors copied into panels.

use std::ops::Range;

use super::tile::{Left, PANEL, panels};

/// Columns of a packed panel.
const WIDE: usize = 2 * PANEL;
/// Inner rows of a packed panel at most: it takes 24 KiB.
const DEPTH: usize = 192;

/// A right factor, `[inner, columns]` or transposed.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    Plain { w: &'a [f32], width: usize },
    Transposed { w: &'a [f32], width: usize },
}

impl Right<'_> {
    /// Copies `columns` (at most [`WIDE`]) columns of some inner rows into `panel`, `[rows, WIDE]`, zeros behind them.
    fn pack(self, inner: Range<usize>, columns: Range<usize>, panel: &mut [f32]) {
        let count = columns.len();
        match self {
            Self::Plain { w, width } => {
                for (row, panel) in inner.zip(panel.chunks_exact_mut(WIDE)) {
                    panel[..count].copy_from_slice(&w[row * width + columns.start..][..count]);
                    panel[count..].fill(0.0);
                }
            }
            Self::Transposed { w, width } => {
                // Blocks of sixteen rows of the panel stay in the first cache while all columns are written.
                for (block, rows) in panel.chunks_mut(16 * WIDE).zip(inner.clone().step_by(16)) {
                    for (column, from) in columns.clone().enumerate() {
                        let line = &w[from * width + rows..][..block.len() / WIDE];
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
#[expect(clippy::too_many_arguments, reason = "as add_product")]
pub(super) fn packed(
    rows: usize,
    inner: usize,
    columns: usize,
    x: Left,
    right: Right,
    out: &mut [f32],
    out_width: usize,
    apart: bool,
) {
    let depth = part_of(inner);
    let mut panel = vec![0.0; depth * WIDE];
    for first in (0..inner).step_by(depth) {
        let part = first..inner.min(first + depth);
        let x = x.from(first);
        for column in (0..columns).step_by(WIDE) {
            let wide = column..columns.min(column + WIDE);
            let panel = &mut panel[..part.len() * WIDE];
            right.pack(part.clone(), wide.clone(), panel);
            let out = &mut out[column..];
            if wide.len() == WIDE {
                panels(
                    rows,
                    part.len(),
                    WIDE,
                    x,
                    panel,
                    WIDE,
                    out,
                    out_width,
                    apart,
                );
            } else {
                let count = wide.len();
                last_panel(rows, part.len(), x, panel, count, out, out_width, apart);
            }
        }
    }
}

/// The product with a zero-filled panel of which the first `columns` columns count.
#[expect(clippy::too_many_arguments, reason = "as add_product")]
pub(super) fn last_panel(
    rows: usize,
    inner: usize,
    x: Left,
    panel: &[f32],
    columns: usize,
    out: &mut [f32],
    out_width: usize,
    apart: bool,
) {
    let width = panel.len() / inner;
    let mut result = vec![0.0; rows * width];
    for (result, row) in result.chunks_exact_mut(width).zip(out.chunks(out_width)) {
        result[..columns].copy_from_slice(&row[..columns]);
    }
    panels(
        rows,
        inner,
        width,
        x,
        panel,
        width,
        &mut result,
        width,
        apart,
    );
    for (result, row) in result.chunks_exact(width).zip(out.chunks_mut(out_width)) {
        row[..columns].copy_from_slice(&result[..columns]);
    }
}

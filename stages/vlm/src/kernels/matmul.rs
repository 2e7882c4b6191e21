//! Matrix products.

use std::ops::Range;

use multiversion::{multiversion, target::target_cfg_f};

/// Columns of a tile: a vector register of the widest instruction set.
const PANEL: usize = 16;
/// Columns of a packed panel.
const WIDE: usize = 2 * PANEL;
/// Inner rows of a packed panel: it takes 32 KiB.
const DEPTH: usize = 256;
/// Fewer rows of the result do not pay for packing.
const PACK_ROWS: usize = 16;
/// Right factors of fewer values are read in place.
const PACK_SIZE: usize = 1 << 16;

/// The left factor of a product, `[rows, inner]`, in any layout.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    /// Distance between an element and the one in the next row.
    pub(crate) row: usize,
    /// Distance between an element and the next in its row.
    pub(crate) inner: usize,
}

impl<'a> Left<'a> {
    /// A row-major matrix of `width` columns.
    pub(crate) fn rows(values: &'a [f32], width: usize) -> Self {
        Self {
            values,
            row: width,
            inner: 1,
        }
    }

    /// The transpose of a row-major matrix of `width` columns.
    pub(crate) fn transposed(values: &'a [f32], width: usize) -> Self {
        Self {
            values,
            row: 1,
            inner: width,
        }
    }
}

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
        return packed(rows, inner, columns, x, right, out, out_width);
    }
    let whole = columns - columns % PANEL;
    if whole > 0 {
        panels(rows, inner, whole, x, w, w_width, out, out_width);
    }
    if whole < columns {
        // The last columns as a panel of their own, filled up with zeros.
        let rest = columns - whole;
        let mut padded = vec![0.0; inner * PANEL];
        for (padded, row) in padded.chunks_exact_mut(PANEL).zip(w.chunks(w_width)) {
            padded[..rest].copy_from_slice(&row[whole..columns]);
        }
        last_panel(rows, inner, x, &padded, rest, &mut out[whole..], out_width);
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
    packed(rows, inner, columns, x, right, out, out_width);
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

/// A right factor, `[inner, columns]` or transposed.
#[derive(Clone, Copy)]
enum Right<'a> {
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

/// A product whose right factor is copied panel by panel into one piece of memory that fits the first cache: a matrix
/// of many columns is spread over so many pages that reading it in place costs more.
fn packed(
    rows: usize,
    inner: usize,
    columns: usize,
    x: Left,
    right: Right,
    out: &mut [f32],
    out_width: usize,
) {
    let mut panel = vec![0.0; inner.min(DEPTH) * WIDE];
    for first in (0..inner).step_by(DEPTH) {
        let part = first..inner.min(first + DEPTH);
        let x = Left {
            values: &x.values[first * x.inner..],
            ..x
        };
        for column in (0..columns).step_by(WIDE) {
            let wide = column..columns.min(column + WIDE);
            let panel = &mut panel[..part.len() * WIDE];
            right.pack(part.clone(), wide.clone(), panel);
            let out = &mut out[column..];
            if wide.len() == WIDE {
                panels(rows, part.len(), WIDE, x, panel, WIDE, out, out_width);
            } else {
                last_panel(rows, part.len(), x, panel, wide.len(), out, out_width);
            }
        }
    }
}

/// The product with a zero-filled panel of which the first `columns` columns count.
fn last_panel(
    rows: usize,
    inner: usize,
    x: Left,
    panel: &[f32],
    columns: usize,
    out: &mut [f32],
    out_width: usize,
) {
    let width = panel.len() / inner;
    let mut result = vec![0.0; rows * width];
    for (result, row) in result.chunks_exact_mut(width).zip(out.chunks(out_width)) {
        result[..columns].copy_from_slice(&row[..columns]);
    }
    panels(rows, inner, width, x, panel, width, &mut result, width);
    for (result, row) in result.chunks_exact(width).zip(out.chunks_mut(out_width)) {
        row[..columns].copy_from_slice(&result[..columns]);
    }
}

/// [`add_product`] for whole panels of columns.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
#[expect(clippy::too_many_arguments, reason = "as add_product")]
fn panels(
    rows: usize,
    inner: usize,
    columns: usize,
    x: Left,
    w: &[f32],
    w_width: usize,
    out: &mut [f32],
    out_width: usize,
) {
    // Tiles that fill the registers of the instruction set; the result's bits do not depend on them.
    let wide = target_cfg_f!(target_feature = "avx512f");
    let mut column = 0;
    while column < columns {
        let w = &w[column..];
        let out = &mut out[column..];
        if wide && column + 2 * PANEL <= columns {
            strip::<8, { 2 * PANEL }>(rows, inner, x, w, w_width, out, out_width);
            column += 2 * PANEL;
        } else if wide {
            strip::<8, PANEL>(rows, inner, x, w, w_width, out, out_width);
            column += PANEL;
        } else {
            strip::<4, PANEL>(rows, inner, x, w, w_width, out, out_width);
            column += PANEL;
        }
    }
}

/// All rows of `N` columns.
#[inline(always)]
fn strip<const M: usize, const N: usize>(
    rows: usize,
    inner: usize,
    x: Left,
    w: &[f32],
    w_width: usize,
    out: &mut [f32],
    out_width: usize,
) {
    let mut row = 0;
    while row + M <= rows {
        let x = Left {
            values: &x.values[row * x.row..],
            ..x
        };
        tile::<M, N>(inner, x, w, w_width, &mut out[row * out_width..], out_width);
        row += M;
    }
    if M > 4 && row + 4 <= rows {
        let x = Left {
            values: &x.values[row * x.row..],
            ..x
        };
        tile::<4, N>(inner, x, w, w_width, &mut out[row * out_width..], out_width);
        row += 4;
    }
    while row < rows {
        let x = Left {
            values: &x.values[row * x.row..],
            ..x
        };
        tile::<1, N>(inner, x, w, w_width, &mut out[row * out_width..], out_width);
        row += 1;
    }
}

/// `M` rows of `N` columns, held in registers.
#[inline(always)]
fn tile<const M: usize, const N: usize>(
    inner: usize,
    x: Left,
    w: &[f32],
    w_width: usize,
    out: &mut [f32],
    out_width: usize,
) {
    assert!(x.values.len() > (M - 1) * x.row + (inner - 1) * x.inner);
    assert!(w.len() >= (inner - 1) * w_width + N);
    let mut sums = [[0f32; N]; M];
    for (index, sums) in sums.iter_mut().enumerate() {
        sums.copy_from_slice(&out[index * out_width..index * out_width + N]);
    }
    for p in 0..inner {
        // SAFETY: p < inner, and the second assertion covers N values from (inner - 1) * w_width on.
        let w: &[f32; N] = unsafe { &*w.as_ptr().add(p * w_width).cast() };
        for (index, sums) in sums.iter_mut().enumerate() {
            // SAFETY: index < M and p < inner, and the first assertion covers the last of both.
            let x = unsafe { *x.values.get_unchecked(index * x.row + p * x.inner) };
            for (sum, &w) in sums.iter_mut().zip(w) {
                *sum = x.mul_add(w, *sum);
            }
        }
    }
    for (index, sums) in sums.iter().enumerate() {
        out[index * out_width..index * out_width + N].copy_from_slice(sums);
    }
}

/// The transpose of a row-major matrix with `width` columns.
pub(crate) fn transpose(values: &[f32], width: usize) -> Vec<f32> {
    let rows = values.len() / width;
    let mut out = vec![0.0; values.len()];
    for (row, values) in values.chunks_exact(width).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            out[column * rows + row] = value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Left, add_product, add_product_transposed, transpose};
    use crate::rng::StreamKey;

    fn random(count: usize, name: &str) -> Vec<f32> {
        let mut stream = StreamKey::new("matmul test", 0).text(name).stream();
        (0..count).map(|_| stream.normal() as f32).collect()
    }

    /// The definition: every element summed in order with fused multiply-adds.
    fn reference(rows: usize, inner: usize, columns: usize, x: &[f32], w: &[f32], out: &mut [f32]) {
        for row in 0..rows {
            for column in 0..columns {
                for p in 0..inner {
                    let sum = &mut out[row * columns + column];
                    *sum = x[row * inner + p].mul_add(w[p * columns + column], *sum);
                }
            }
        }
    }

    #[test]
    fn every_shape_gives_the_bits_of_the_definition() {
        for rows in [1, 2, 3, 5, 8, 11, 12, 31] {
            for columns in [1, 8, 15, 16, 17, 32, 48, 50, 144] {
                for inner in [1, 7, 48] {
                    let (x, w) = (random(rows * inner, "x"), random(inner * columns, "w"));
                    let start = random(rows * columns, "out");
                    let (mut right, mut out, mut turned) = (start.clone(), start.clone(), start);
                    reference(rows, inner, columns, &x, &w, &mut right);
                    let left = Left::rows(&x, inner);
                    add_product(rows, inner, columns, left, &w, columns, &mut out, columns);
                    assert_eq!(out, right, "{rows} x {inner} x {columns}");
                    let x = transpose(&x, inner);
                    let left = Left::transposed(&x, rows);
                    add_product(
                        rows,
                        inner,
                        columns,
                        left,
                        &w,
                        columns,
                        &mut turned,
                        columns,
                    );
                    assert_eq!(turned, right, "transposed {rows} x {inner} x {columns}");
                }
            }
        }
    }

    #[test]
    fn packed_and_transposed_factors_give_the_bits_of_the_definition() {
        for (rows, inner, columns) in [(16, 300, 300), (37, 513, 129), (3, 20, 33), (1, 7, 5)] {
            let (x, w) = (random(rows * inner, "x"), random(inner * columns, "w"));
            let start = random(rows * columns, "out");
            let (mut right, mut out, mut turned) = (start.clone(), start.clone(), start);
            reference(rows, inner, columns, &x, &w, &mut right);
            let left = Left::rows(&x, inner);
            add_product(rows, inner, columns, left, &w, columns, &mut out, columns);
            assert_eq!(out, right, "{rows} x {inner} x {columns}");
            let w = transpose(&w, columns);
            add_product_transposed(rows, inner, columns, left, &w, inner, &mut turned, columns);
            assert_eq!(turned, right, "transposed {rows} x {inner} x {columns}");
        }
    }

    #[test]
    fn strides_leave_the_rest_alone() {
        let (x, w) = (random(3 * 10, "x"), random(5 * 40, "w"));
        let mut out = vec![7.0; 3 * 60];
        let left = Left {
            values: &x[2..],
            row: 10,
            inner: 1,
        };
        add_product(3, 5, 20, left, &w[3..], 40, &mut out[4..], 60);
        for row in 0..3 {
            let right: f32 = (0..5).fold(7.0, |sum, p| {
                x[row * 10 + 2 + p].mul_add(w[p * 40 + 3 + 19], sum)
            });
            assert_eq!(out[row * 60 + 4 + 19], right);
            assert!(
                out[row * 60..row * 60 + 4]
                    .iter()
                    .all(|&value| value == 7.0)
            );
            assert!(
                out[row * 60 + 24..(row + 1) * 60]
                    .iter()
                    .all(|&value| value == 7.0)
            );
        }
    }
}

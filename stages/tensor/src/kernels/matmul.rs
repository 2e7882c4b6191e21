//! Matrix products.

mod packed;

use multiversion::{multiversion, target::target_cfg_f};

use packed::{Right, last_panel, packed};

/// Columns of a tile: a vector register of the widest instruction set.
const PANEL: usize = 16;
/// Columns of a packed panel.
const WIDE: usize = 2 * PANEL;
/// Inner rows of a packed panel at most: it takes 24 KiB.
const DEPTH: usize = 192;
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

    /// The same from another inner index on.
    fn from(self, inner: usize) -> Self {
        Self {
            values: &self.values[inner * self.inner..],
            ..self
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

/// Terms of a part of a sum of `inner` terms: all up to [`DEPTH`], half of them up to twice that, then [`DEPTH`]. So
/// does the single-precision product of Intel's MKL, which PyTorch calls: both round in the same places.
fn part_of(inner: usize) -> usize {
    match inner > DEPTH {
        true => DEPTH.min(inner / 2),
        false => inner,
    }
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

/// [`add_product`] for whole panels of columns; `apart` sums by itself and then adds to what is there.
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
    apart: bool,
) {
    // Tiles that fill the registers of the instruction set; the result's bits do not depend on them.
    let wide = target_cfg_f!(target_feature = "avx512f");
    let mut column = 0;
    while column < columns {
        let w = &w[column..];
        let out = &mut out[column..];
        if wide && column + 2 * PANEL <= columns {
            strip::<8, { 2 * PANEL }>(rows, inner, x, w, w_width, out, out_width, apart);
            column += 2 * PANEL;
        } else if wide {
            strip::<8, PANEL>(rows, inner, x, w, w_width, out, out_width, apart);
            column += PANEL;
        } else {
            strip::<4, PANEL>(rows, inner, x, w, w_width, out, out_width, apart);
            column += PANEL;
        }
    }
}

/// All rows of `N` columns.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "as add_product")]
fn strip<const M: usize, const N: usize>(
    rows: usize,
    inner: usize,
    x: Left,
    w: &[f32],
    w_width: usize,
    out: &mut [f32],
    out_width: usize,
    apart: bool,
) {
    let mut row = 0;
    while row + M <= rows {
        let x = Left {
            values: &x.values[row * x.row..],
            ..x
        };
        let out = &mut out[row * out_width..];
        tile::<M, N>(inner, x, w, w_width, out, out_width, apart);
        row += M;
    }
    if M > 4 && row + 4 <= rows {
        let x = Left {
            values: &x.values[row * x.row..],
            ..x
        };
        let out = &mut out[row * out_width..];
        tile::<4, N>(inner, x, w, w_width, out, out_width, apart);
        row += 4;
    }
    while row < rows {
        let x = Left {
            values: &x.values[row * x.row..],
            ..x
        };
        let out = &mut out[row * out_width..];
        tile::<1, N>(inner, x, w, w_width, out, out_width, apart);
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
    apart: bool,
) {
    assert!(x.values.len() > (M - 1) * x.row + (inner - 1) * x.inner);
    assert!(w.len() >= (inner - 1) * w_width + N);
    let mut sums = [[0f32; N]; M];
    if !apart {
        for (index, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&out[index * out_width..index * out_width + N]);
        }
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
        let out = &mut out[index * out_width..index * out_width + N];
        match apart {
            false => out.copy_from_slice(sums),
            true => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
        }
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

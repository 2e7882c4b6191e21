//! Whole panels of columns, tile by tile: what all products come down to.

use multiversion::{multiversion, target::target_cfg_f};

/// Columns of a tile: a vector register of the widest instruction set.
pub(super) const PANEL: usize = 16;

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
    pub(super) fn from(self, inner: usize) -> Self {
        Self {
            values: &self.values[inner * self.inner..],
            ..self
        }
    }
}

/// [`add_product`](super::add_product) for whole panels of columns; `apart` sums by itself and then adds to what is there.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
#[expect(clippy::too_many_arguments, reason = "as add_product")]
pub(super) fn panels(
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

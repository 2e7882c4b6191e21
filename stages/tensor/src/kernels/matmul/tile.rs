//! Whole panels of columns, tile by tile: what all products come down to.

use multiversion::{multiversion, target::target_cfg_f};

use crate::kernels::matrix::{MatMut, MatRef};

/// Columns of a tile: a vector register of the widest instruction set.
pub(super) const PANEL: usize = 16;

/// A left factor, as a tile reads it.
#[derive(Clone, Copy)]
struct Left<'a> {
    values: &'a [f32],
    /// Distance between an element and the one in the next row.
    row: usize,
    /// Distance between an element and the next in its row.
    inner: usize,
}

impl<'a> Left<'a> {
    /// The same without its first rows.
    fn below(self, row: usize) -> Self {
        Self {
            values: &self.values[row * self.row..],
            ..self
        }
    }
}

/// Sizes of a product, and the distances between the rows of its right factor and of its result.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    inner: usize,
    columns: usize,
    w_width: usize,
    out_width: usize,
}

/// [`add_product`](super::add_product) for whole panels of columns of a right factor whose rows lie in one piece; `apart`
/// sums by itself and then adds to what is there.
pub(super) fn panels(x: MatRef<'_>, w: MatRef<'_>, mut out: MatMut<'_>, apart: bool) {
    let [row, inner] = x.strides();
    let left = Left {
        values: x.values(),
        row,
        inner,
    };
    let sizes = Sizes {
        rows: x.rows(),
        inner: w.rows(),
        columns: out.columns(),
        w_width: w.strides()[0],
        out_width: out.stride(),
    };
    // Slices alone reach the loops: of matrices the compiler would keep the tiles' sums in memory.
    strips(left, w.values(), out.values(), sizes, apart);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
fn strips(x: Left, w: &[f32], out: &mut [f32], sizes: Sizes, apart: bool) {
    // Tiles that fill the registers of the instruction set; the result's bits do not depend on them.
    let wide = target_cfg_f!(target_feature = "avx512f");
    let mut column = 0;
    while column < sizes.columns {
        let (w, out) = (&w[column..], &mut out[column..]);
        if wide && column + 2 * PANEL <= sizes.columns {
            strip::<8, { 2 * PANEL }>(x, w, out, sizes, apart);
            column += 2 * PANEL;
        } else if wide {
            strip::<8, PANEL>(x, w, out, sizes, apart);
            column += PANEL;
        } else {
            strip::<4, PANEL>(x, w, out, sizes, apart);
            column += PANEL;
        }
    }
}

/// All rows of `N` columns.
#[inline(always)]
fn strip<const M: usize, const N: usize>(
    x: Left,
    w: &[f32],
    out: &mut [f32],
    sizes: Sizes,
    apart: bool,
) {
    let Sizes {
        rows,
        inner,
        w_width,
        out_width,
        ..
    } = sizes;
    let mut row = 0;
    while row + M <= rows {
        let out = &mut out[row * out_width..];
        tile::<M, N>(inner, x.below(row), w, w_width, out, out_width, apart);
        row += M;
    }
    if M > 4 && row + 4 <= rows {
        let out = &mut out[row * out_width..];
        tile::<4, N>(inner, x.below(row), w, w_width, out, out_width, apart);
        row += 4;
    }
    while row < rows {
        let out = &mut out[row * out_width..];
        tile::<1, N>(inner, x.below(row), w, w_width, out, out_width, apart);
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

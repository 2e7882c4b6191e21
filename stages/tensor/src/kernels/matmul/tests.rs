//! Bits of products, against their definition.

use super::{add_product, add_product_in_parts};
use crate::kernels::matrix::{MatMut, MatRef};
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
                let w = MatRef::new(&w, [inner, columns]);
                let left = MatRef::new(&x, [rows, inner]);
                add_product(left, w, MatMut::new(&mut out, [rows, columns]));
                assert_eq!(out, right, "{rows} x {inner} x {columns}");
                let x = transpose(&x, inner);
                let left = MatRef::new(&x, [inner, rows]).transposed();
                add_product(left, w, MatMut::new(&mut turned, [rows, columns]));
                assert_eq!(turned, right, "transposed {rows} x {inner} x {columns}");
            }
        }
    }
}

#[test]
fn sums_in_parts_are_added_part_by_part() {
    // In place and packed; with a last panel; short sums are one part, and some have a short last one.
    let cases = [
        ((3, 48, 50), 48),
        ((3, 192, 17), 192),
        ((3, 193, 50), 96),
        ((16, 300, 50), 150),
        ((40, 383, 300), 191),
        ((40, 400, 300), 192),
        ((40, 1176, 64), 192),
    ];
    for ((rows, inner, columns), depth) in cases {
        let (x, w) = (random(rows * inner, "x"), random(inner * columns, "w"));
        let start = random(rows * columns, "out");
        let (mut right, mut out) = (start.clone(), start);
        for first in (0..inner).step_by(depth) {
            let part = depth.min(inner - first);
            let rows_of_x = x.chunks_exact(inner);
            let x: Vec<f32> = rows_of_x
                .flat_map(|row| row[first..first + part].to_vec())
                .collect();
            let mut sums = vec![0.0; right.len()];
            reference(rows, part, columns, &x, &w[first * columns..], &mut sums);
            for (out, sum) in right.iter_mut().zip(sums) {
                *out += sum;
            }
        }
        let (left, w) = (
            MatRef::new(&x, [rows, inner]),
            MatRef::new(&w, [inner, columns]),
        );
        add_product_in_parts(left, w, MatMut::new(&mut out, [rows, columns]));
        assert_eq!(out, right, "{rows} x {inner} x {columns}");
    }
}

#[test]
fn packed_and_transposed_factors_give_the_bits_of_the_definition() {
    for (rows, inner, columns) in [
        (16, 300, 300),
        (37, 513, 129),
        (3, 20, 33),
        (1, 7, 5),
        (4, 1, 37),
    ] {
        let (x, w) = (random(rows * inner, "x"), random(inner * columns, "w"));
        let start = random(rows * columns, "out");
        let (mut right, mut out, mut turned) = (start.clone(), start.clone(), start);
        reference(rows, inner, columns, &x, &w, &mut right);
        let left = MatRef::new(&x, [rows, inner]);
        let right_factor = MatRef::new(&w, [inner, columns]);
        add_product(left, right_factor, MatMut::new(&mut out, [rows, columns]));
        assert_eq!(out, right, "{rows} x {inner} x {columns}");
        let w = transpose(&w, columns);
        let right_factor = MatRef::new(&w, [columns, inner]).transposed();
        add_product(
            left,
            right_factor,
            MatMut::new(&mut turned, [rows, columns]),
        );
        assert_eq!(turned, right, "transposed {rows} x {inner} x {columns}");
    }
}

#[test]
fn strides_leave_the_rest_alone() {
    let (x, w) = (random(3 * 10, "x"), random(5 * 40, "w"));
    let mut out = vec![7.0; 3 * 60];
    let left = MatRef::strided(&x[2..], [3, 5], 10);
    let right = MatRef::strided(&w[3..], [5, 20], 40);
    add_product(left, right, MatMut::strided(&mut out[4..], [3, 20], 60));
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

/// The transpose of a row-major matrix with `width` columns.
fn transpose(values: &[f32], width: usize) -> Vec<f32> {
    let rows = values.len() / width;
    let mut out = vec![0.0; values.len()];
    for (row, values) in values.chunks_exact(width).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            out[column * rows + row] = value;
        }
    }
    out
}

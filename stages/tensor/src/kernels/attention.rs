//! Scaled dot-product attention of one span, head by head.

use multiversion::multiversion;

use super::math::{softmax_terms, sum_zip};
use super::matmul::add_product;
use super::matrix::{MatMut, MatRef};
use crate::ops::{Heads, Span};

/// Where a head's queries, keys and values lie in a row of `[queries, keys, values]`.
#[derive(Clone, Copy)]
struct Head {
    /// Values in a row of the packed matrix.
    row: usize,
    /// Width of the head.
    width: usize,
    /// Columns of its first query, key and value.
    columns: [usize; 3],
}

impl Head {
    /// `row`: values in a packed row; the query heads of a group share one head of keys and values.
    fn new(row: usize, heads: Heads, index: usize) -> Self {
        let width = heads.width(row);
        let shared = index / (heads.queries / heads.keys);
        let columns = [
            index,
            heads.queries + shared,
            heads.queries + heads.keys + shared,
        ];
        Self {
            row,
            width,
            columns: columns.map(|head| head * width),
        }
    }

    /// The part of `values` that starts at a packed row's query, key or value.
    fn at<'a>(&self, values: &'a [f32], row: usize, part: usize) -> &'a [f32] {
        &values[row * self.row + self.columns[part]..]
    }

    /// The span's keys or values as `[rows, head width]`.
    fn gather(&self, qkv: &[f32], span: &Span, part: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(span.keys() * self.width);
        for row in span.prefix.clone().chain(span.own.clone()) {
            out.extend_from_slice(&self.at(qkv, row, part)[..self.width]);
        }
        out
    }

    /// As [`Head::gather`], transposed: `[head width, rows]`.
    fn gather_transposed(&self, qkv: &[f32], span: &Span, part: usize) -> Vec<f32> {
        let keys = span.keys();
        let mut out = vec![0.0; keys * self.width];
        for (slot, row) in span.prefix.clone().chain(span.own.clone()).enumerate() {
            for (column, &value) in self.at(qkv, row, part)[..self.width].iter().enumerate() {
                out[column * keys + slot] = value;
            }
        }
        out
    }

    /// Adds `[rows, head width]` gradients to the span's keys or values; `first` is the first row in `grad`.
    fn scatter(&self, values: &[f32], span: &Span, part: usize, grad: &mut [f32], first: usize) {
        let rows = span.prefix.clone().chain(span.own.clone());
        for (values, row) in values.chunks_exact(self.width).zip(rows) {
            let start = (row - first) * self.row + self.columns[part];
            for (sum, value) in grad[start..start + self.width].iter_mut().zip(values) {
                *sum += value;
            }
        }
    }
}

/// Packed rows of queries, keys and values.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) qkv: &'a [f32],
    /// Values in a row.
    pub(crate) row: usize,
    pub(crate) heads: Heads,
}

impl Packed<'_> {
    /// Values in a row of what attention gives.
    pub(crate) fn width(&self) -> usize {
        self.heads.queries * self.heads.width(self.row)
    }
}

/// Attention of one span.
///
/// Writes `out`, `[queries, heads * head width]`, and the attention
/// weights into `weights`, `[heads, queries, keys]`; both must be zero before.
pub(crate) fn attend(packed: Packed<'_>, span: &Span, out: &mut [f32], weights: &mut [f32]) {
    let (queries, keys) = (span.queries.len(), span.keys());
    if queries == 0 {
        return;
    }
    let (width, Packed { qkv, row, heads }) = (packed.width(), packed);
    for (index, weights) in weights.chunks_exact_mut(queries * keys).enumerate() {
        let head = Head::new(row, heads, index);
        let query = head.at(qkv, span.queries.start, 0);
        let query = MatRef::strided(query, [queries, head.width], head.row);
        let key = head.gather_transposed(qkv, span, 1);
        let key = MatRef::new(&key, [head.width, keys]);
        add_product(query, key, MatMut::new(weights, [queries, keys]));
        softmax(weights, keys, span, scale(head.width));
        let value = head.gather(qkv, span, 2);
        let value = MatRef::new(&value, [keys, head.width]);
        let out = &mut out[index * head.width..];
        let out = MatMut::strided(out, [queries, head.width], width);
        add_product(MatRef::new(weights, [queries, keys]), value, out);
    }
}

/// Gradients of one span, added to `grad`, whose first row is packed row `first`.
///
/// `out_grad`: `[queries, heads * head width]`; `weights` as [`attend`] left them.
pub(crate) fn attend_backward(
    packed: Packed<'_>,
    span: &Span,
    weights: &[f32],
    out_grad: &[f32],
    grad: &mut [f32],
    first: usize,
) {
    let (queries, keys) = (span.queries.len(), span.keys());
    if queries == 0 {
        return;
    }
    let (width, Packed { qkv, row, heads }) = (packed.width(), packed);
    let mut scores = vec![0.0; queries * keys];
    for (index, weights) in weights.chunks_exact(queries * keys).enumerate() {
        let head = Head::new(row, heads, index);
        let head_grad = &out_grad[index * head.width..];

        let mut value_grad = vec![0.0; keys * head.width];
        let turned = MatRef::new(weights, [queries, keys]).transposed();
        let head_grad = MatRef::strided(head_grad, [queries, head.width], width);
        let out = MatMut::new(&mut value_grad, [keys, head.width]);
        add_product(turned, head_grad, out);
        head.scatter(&value_grad, span, 2, grad, first);

        scores.fill(0.0);
        let value = head.gather_transposed(qkv, span, 2);
        let value = MatRef::new(&value, [head.width, keys]);
        add_product(head_grad, value, MatMut::new(&mut scores, [queries, keys]));
        softmax_backward(weights, keys, scale(head.width), &mut scores);

        let key = head.gather(qkv, span, 1);
        let query_grad = &mut grad[(span.queries.start - first) * head.row + head.columns[0]..];
        let key = MatRef::new(&key, [keys, head.width]);
        let out = MatMut::strided(query_grad, [queries, head.width], head.row);
        let scores_of = MatRef::new(&scores, [queries, keys]);
        add_product(scores_of, key, out);

        let mut key_grad = vec![0.0; keys * head.width];
        let query = head.at(qkv, span.queries.start, 0);
        let query = MatRef::strided(query, [queries, head.width], head.row);
        let out = MatMut::new(&mut key_grad, [keys, head.width]);
        add_product(scores_of.transposed(), query, out);
        head.scatter(&key_grad, span, 1, grad, first);
    }
}

fn scale(head_width: usize) -> f32 {
    1.0 / (head_width as f32).sqrt()
}

/// The query's products with each of `keys`, rows of `stride` values of which the first are used.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn dot_rows(query: &[f32], keys: &[f32], stride: usize, out: &mut [f32]) {
    for (out, key) in out.iter_mut().zip(keys.chunks(stride)) {
        *out = sum_zip(query, &key[..query.len()], |sum, q, k| q.mul_add(k, sum));
    }
}

/// Adds each row of `values` times its weight to `out`; rows of `stride` values of which the first are used.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn add_weighted_rows(weights: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
    for (weight, value) in weights.iter().zip(values.chunks(stride)) {
        for (out, value) in out.iter_mut().zip(value) {
            *out = weight.mul_add(*value, *out);
        }
    }
}

/// Scores to attention weights in place; `scale` multiplies the scores first.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn softmax_row(scores: &mut [f32], scale: f32) {
    normalise(scores, scale);
}

#[inline(always)]
fn normalise(scores: &mut [f32], scale: f32) {
    let largest = scores
        .iter()
        .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let inverse = 1.0 / softmax_terms(scores, largest, scale);
    for weight in scores {
        *weight *= inverse;
    }
}

/// Scores to attention weights, row by row; what a row does not see gets weight zero.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
fn softmax(scores: &mut [f32], keys: usize, span: &Span, scale: f32) {
    for (row, scores) in span.queries.clone().zip(scores.chunks_exact_mut(keys)) {
        let (seen, hidden) = scores.split_at_mut(span.visible(row));
        normalise(seen, scale);
        hidden.fill(0.0);
    }
}

/// Gradients of the weights to gradients of the unscaled scores, in place.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
fn softmax_backward(weights: &[f32], keys: usize, scale: f32, grad: &mut [f32]) {
    for (weights, grad) in weights.chunks_exact(keys).zip(grad.chunks_exact_mut(keys)) {
        let mean = sum_zip(weights, grad, |sum, weight, grad| weight.mul_add(grad, sum));
        for (grad, weight) in grad.iter_mut().zip(weights) {
            *grad = (*grad - mean) * weight * scale;
        }
    }
}

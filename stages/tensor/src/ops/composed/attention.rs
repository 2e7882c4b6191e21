//! Attention over packed rows, span by span.

use std::ops::Range;

use burn::tensor::{FloatDType, Tensor, TensorData, activation};

use crate::host::send;
use crate::ops::{Heads, Span, Spans};

/// As [`crate::ops::attention`].
pub fn attention(qkv: Tensor<2>, spans: &Spans, heads: Heads) -> Tensor<2> {
    let width = heads.width(qkv.dims()[1]);
    let of_span = |span: &Span| of_span(&qkv, span, heads, width);
    let asking = spans.iter().filter(|span| !span.queries.is_empty());
    let out: Vec<Tensor<2>> = asking.map(of_span).collect();
    match out.is_empty() {
        true => qkv.slice([0..0, 0..heads.queries * width]),
        false => Tensor::cat(out, 0),
    }
}

fn of_span(qkv: &Tensor<2>, span: &Span, heads: Heads, width: usize) -> Tensor<2> {
    // `[heads, rows, width]`
    let part = |rows: &Range<usize>, first: usize, heads: usize| -> Tensor<3> {
        let columns = first * width..(first + heads) * width;
        let part = qkv.clone().slice([rows.clone(), columns]);
        part.reshape([rows.len(), heads, width]).swap_dims(0, 1)
    };
    let seen = |first: usize| {
        let both = [&span.prefix, &span.own].map(|rows| part(rows, first, heads.keys));
        let seen = Tensor::cat(both.to_vec(), 1);
        let [keys, rows, _] = seen.dims();
        // Each head of keys and values serves a group of query heads.
        seen.reshape([keys, 1, rows, width])
            .repeat_dim(1, heads.queries / heads.keys)
            .reshape([1, heads.queries, rows, width])
    };
    let queries = part(&span.queries, 0, heads.queries).unsqueeze::<4>();
    let (keys, values) = (seen(heads.queries), seen(heads.queries + heads.keys));
    let scores = queries.matmul(keys.swap_dims(2, 3));
    let weights = weights(scores, width, |scores| {
        let hidden = span.queries.clone().flat_map(|row| {
            let visible = span.visible(row);
            (0..span.keys()).map(move |key| {
                if key < visible {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
        });
        let shape = [1, 1, span.queries.len(), span.keys()];
        let hidden = TensorData::new(hidden.collect::<Vec<f32>>(), shape);
        let hidden = send::<4, _>(hidden, &scores.device());
        scores + hidden
    });
    weights
        .matmul(values)
        .swap_dims(1, 2)
        .reshape([span.queries.len(), heads.queries * width])
}

/// Scores to weights; as in Transformers the softmax runs in 32 bits, whatever the model's type is. `hide` gets the
/// scores.
fn weights(scores: Tensor<4>, head: usize, hide: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let dtype = scores.dtype();
    let scores = (scores * (1.0 / (head as f64).sqrt())).cast(FloatDType::F32);
    activation::softmax(hide(scores), 3).cast(dtype)
}

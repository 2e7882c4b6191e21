//! Attention over packed rows in burn's own operations: its definition, and what runs on every device but the CPU.
//!
//! Rows are brought into a `[spans, length]` grid, padded where the spans differ in length. Spans that follow each other
//! and are equally long are such a grid already, and nothing is moved.

use std::ops::Range;

use burn::tensor::{Device, FloatDType, Tensor, TensorData, activation};

use super::gather::Gather;
use crate::host::send;
use crate::ops::{Heads, Span, Spans};

/// Where the rows of a batch's spans go in the grid. It is the same for all layers, and goes to the device once.
#[derive(Debug)]
struct Layout {
    /// What it is made for.
    rows: usize,
    device: Device,
    /// Spans.
    count: usize,
    /// Own rows of the longest span, and rows of the longest prefix.
    own: usize,
    prefix: usize,
    /// Rows that the span with the most of them asks for.
    asked: usize,
    /// Own rows, into `[spans, own]`.
    own_rows: Gather,
    /// Prefixes that differ, into `[prefixes, prefix]`, and which of them each span has.
    prefix_rows: Gather,
    prefix_of: Gather,
    /// Rows that are asked for, into `[spans, asked]`, and out of there again.
    asked_rows: Gather,
    given_out: Gather,
    /// What is added to the scores: 0 where a row may look, minus infinity where not. `[spans or 1, 1, 1, asked or 1,
    /// prefix + own]`; none where all look at all.
    bias: Option<Tensor<5>>,
}

impl Layout {
    fn new(spans: &Spans, rows: usize, device: &Device) -> Self {
        let longest = |length: fn(&Span) -> usize| spans.iter().map(length).max().unwrap_or(0);
        let own = longest(|span| span.own.len());
        let asked = longest(|span| span.queries.len());
        let mut prefixes: Vec<Range<usize>> = Vec::new();
        let prefix_of: Vec<u32> = spans
            .iter()
            .map(|span| {
                let known = prefixes.iter().rposition(|prefix| *prefix == span.prefix);
                let index = known.unwrap_or_else(|| {
                    prefixes.push(span.prefix.clone());
                    prefixes.len() - 1
                });
                index as u32
            })
            .collect();
        let prefix = prefixes.iter().map(Range::len).max().unwrap_or(0);
        let grid =
            |ranges: &mut dyn Iterator<Item = Range<usize>>, length: usize| -> Vec<Option<u32>> {
                let padded = |range: Range<usize>| {
                    let rows = range.map(|row| Some(row as u32));
                    rows.chain(std::iter::repeat(None)).take(length)
                };
                ranges.flat_map(padded).collect()
            };
        let given_out = spans.iter().enumerate().flat_map(|(index, span)| {
            (0..span.queries.len()).map(move |slot| Some((index * asked + slot) as u32))
        });
        let given_out: Vec<Option<u32>> = given_out.collect();
        let count = spans.iter().count();
        let own_rows = grid(&mut spans.iter().map(|span| span.own.clone()), own);
        let asked_rows = grid(&mut spans.iter().map(|span| span.queries.clone()), asked);
        let prefix_rows = grid(&mut prefixes.into_iter(), prefix);
        Self {
            rows,
            device: device.clone(),
            count,
            own,
            prefix,
            asked,
            own_rows: Gather::new(&own_rows, rows, device),
            prefix_of: match prefix {
                0 => Gather::All,
                _ => Gather::repeated(&prefix_of, device),
            },
            prefix_rows: Gather::new(&prefix_rows, rows, device),
            asked_rows: Gather::new(&asked_rows, rows, device),
            given_out: Gather::new(&given_out, count * asked, device),
            bias: bias(spans, [prefix, own, asked], device),
        }
    }

    fn is_for(&self, rows: usize, device: &Device) -> bool {
        let alike = self.device.is_autodiff() == device.is_autodiff();
        self.rows == rows && self.device == *device && alike
    }

    /// Columns of the own rows and, before them, of the prefix: `[spans, prefix + own, width]`.
    fn keys(&self, qkv: &Tensor<2>, columns: Range<usize>) -> Tensor<3> {
        let width = columns.len();
        let part = qkv.clone().slice([0..qkv.dims()[0], columns]);
        let own = self
            .own_rows
            .take(part.clone())
            .reshape([self.count, self.own, width]);
        if self.prefix == 0 {
            return own;
        }
        // Whole prefixes are repeated, not rows: the gradient of a repeat is a sum over the spans of a prefix.
        let prefixes = self.prefix_rows.take(part);
        let count = prefixes.dims()[0] / self.prefix;
        let prefixes = prefixes.reshape([count, self.prefix * width]);
        let prefixes = self
            .prefix_of
            .take(prefixes)
            .reshape([self.count, self.prefix, width]);
        Tensor::cat(vec![prefixes, own], 1)
    }
}

/// What each row may not look at.
fn bias(spans: &Spans, [prefix, own, asked]: [usize; 3], device: &Device) -> Option<Tensor<5>> {
    let first = spans.iter().next()?;
    let equal = spans.iter().all(|span| {
        let at = |span: &Span| {
            let from = span.queries.start - span.own.start;
            (
                span.prefix.len(),
                span.own.len(),
                span.causal,
                from,
                span.queries.len(),
            )
        };
        at(span) == at(first)
    });
    let causal = spans.iter().any(|span| span.causal);
    if equal && !causal {
        return None;
    }
    let count = if equal { 1 } else { spans.iter().count() };
    // Where no span is causal all of its rows look at the same ones.
    let queries = if causal { asked } else { 1 };
    let length = prefix + own;
    let mut bias = vec![f32::NEG_INFINITY; count * queries * length];
    for (index, span) in spans.iter().take(count).enumerate() {
        for slot in 0..queries {
            let bias = &mut bias[(index * queries + slot) * length..][..length];
            bias[..span.prefix.len()].fill(0.0);
            // Rows of padding look where the last one looks, so that their softmax is defined; they are not given out.
            let row = (span.queries.start + slot).min(span.queries.end.max(span.own.start + 1) - 1);
            let visible = span.visible(row) - span.prefix.len();
            bias[prefix..][..visible].fill(0.0);
        }
    }
    let bias = TensorData::new(bias, [count, 1, 1, queries, length]);
    Some(send(bias, device))
}

/// As [`crate::ops::attention`].
pub fn attention(qkv: Tensor<2>, spans: &Spans, heads: Heads) -> Tensor<2> {
    let [rows, columns] = qkv.dims();
    let head = heads.width(columns);
    let group = heads.queries / heads.keys;
    let device = qkv.device();
    let layout = spans.laid(
        |layout: &Layout| layout.is_for(rows, &device),
        || Layout::new(spans, rows, &device),
    );
    let (count, asked) = (layout.count, layout.asked);
    if count == 0 || asked == 0 {
        return qkv.slice([0..0, 0..heads.queries * head]);
    }
    let length = layout.prefix + layout.own;
    let (queries, keys) = (heads.queries * head, heads.keys * head);
    // Each head of keys and values serves a group of query heads: those are rows of one product with it.
    let query = qkv.clone().slice([0..rows, 0..queries]);
    let query = layout
        .asked_rows
        .take(query)
        .reshape([count, asked, heads.keys, group, head])
        .permute([0, 2, 3, 1, 4])
        .reshape([count, heads.keys, group * asked, head]);
    let part = |columns: Range<usize>| -> Tensor<4> {
        let part = layout.keys(&qkv, columns);
        part.reshape([count, length, heads.keys, head])
            .swap_dims(1, 2)
    };
    let (key, value) = (
        part(queries..queries + keys),
        part(queries + keys..queries + 2 * keys),
    );
    let weights = weights(
        query.matmul(key.swap_dims(2, 3)),
        head,
        |scores| match &layout.bias {
            None => scores,
            Some(bias) => {
                let scores = scores.reshape([count, heads.keys, group, asked, length]);
                (scores + bias.clone()).reshape([count, heads.keys, group * asked, length])
            }
        },
    );
    let mixed = weights
        .matmul(value)
        .reshape([count, heads.keys, group, asked, head])
        .permute([0, 3, 1, 2, 4])
        .reshape([count * asked, queries]);
    layout.given_out.take(mixed)
}

/// Scores to weights; as in Transformers the softmax runs in 32 bits, whatever the model's type is. `hide` gets the
/// scores.
pub(super) fn weights(
    scores: Tensor<4>,
    head: usize,
    hide: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let dtype = scores.dtype();
    let scores = (scores * (1.0 / (head as f64).sqrt())).cast(FloatDType::F32);
    activation::softmax(hide(scores), 3).cast(dtype)
}

//! Attention.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::Tensor;

use super::{Flat, Input, new, record, values};
use crate::kernels::{self, Packed, parallel};
use crate::ops::{Heads, Span, Spans};

#[derive(Debug)]
struct Attention;

#[derive(Clone, Debug)]
struct State {
    qkv: Flat,
    heads: Heads,
    /// Independent pieces of the batch.
    pieces: Arc<[Piece]>,
}

/// Spans that share no row with those of other pieces.
#[derive(Clone, Debug)]
struct Piece {
    spans: Vec<Span>,
    /// From the first row that they use to the last.
    rows: Range<usize>,
    /// Attention weights, span after span: `[heads, queries, keys]` each.
    weights: Vec<f32>,
}

impl Piece {
    fn queries(&self) -> usize {
        self.spans
            .iter()
            .map(|span| span.queries.len())
            .sum::<usize>()
    }
}

pub(in crate::ops) fn attention(qkv: Tensor<2>, spans: &Spans, heads: Heads) -> Tensor<2> {
    let row = qkv.dims()[1];
    let width = heads.queries * heads.width(row);
    let qkv = Input::new(qkv);
    let data = qkv.contiguous();
    let mut out = vec![0.0; spans.outputs() * width];
    let mut pieces = cut(spans, heads.queries);
    let mut rest = &mut out[..];
    let mut work = Vec::with_capacity(pieces.len());
    for piece in &mut pieces {
        let (own, after) = rest.split_at_mut(piece.queries() * width);
        work.push((piece, own));
        rest = after;
    }
    parallel::for_each(work, |(piece, out)| {
        let qkv = values(&data);
        attend(Packed { qkv, row, heads }, piece, out)
    });
    let out = new(out, [spans.outputs(), width]);
    record(Attention, [qkv], out, || State {
        qkv: data,
        heads,
        pieces: pieces.into(),
    })
}

impl Backward<Flex, 1> for Attention {
    type State = State;

    fn backward(self, ops: Ops<State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let State { qkv, heads, pieces } = ops.state;
        let [node] = ops.parents;
        let Some(node) = node else { return };
        let (qkv, grad) = (values(&qkv), values(&grad));
        let rows = pieces.last().map_or(0, |piece| piece.rows.end);
        let width = grad.len() / pieces.iter().map(Piece::queries).sum::<usize>().max(1);
        let row_values = heads.row(width / heads.queries);
        let total = qkv.len();
        let mut out = vec![0.0; total];
        let mut work = Vec::with_capacity(pieces.len());
        let (mut rest, mut row, mut query) = (&mut out[..], 0, 0);
        for piece in &*pieces {
            let (_, after) = rest.split_at_mut((piece.rows.start - row) * row_values);
            let (own, after) = after.split_at_mut(piece.rows.len() * row_values);
            let queries = piece.queries();
            work.push((piece, own, &grad[query * width..(query + queries) * width]));
            (rest, row, query) = (after, piece.rows.end, query + queries);
        }
        debug_assert_eq!(row, rows);
        let packed = Packed {
            qkv,
            row: row_values,
            heads,
        };
        parallel::for_each(work, |(piece, out, grad)| {
            attend_backward(packed, piece, grad, out)
        });
        grads.register::<Flex>(node.id, new(out, [total / row_values, row_values]));
    }
}

/// The span's part of a piece's weights, and the parts of `out` that its queries have.
fn attend(packed: Packed<'_>, piece: &mut Piece, out: &mut [f32]) {
    let (width, heads) = (packed.width(), packed.heads.queries);
    let (mut weights, mut out) = (&mut piece.weights[..], out);
    for span in &piece.spans {
        let (own_weights, later_weights) =
            weights.split_at_mut(heads * span.queries.len() * span.keys());
        let (own, later) = out.split_at_mut(span.queries.len() * width);
        kernels::attend(packed, span, own, own_weights);
        (weights, out) = (later_weights, later);
    }
}

fn attend_backward(packed: Packed<'_>, piece: &Piece, grad: &[f32], out: &mut [f32]) {
    let (width, heads) = (packed.width(), packed.heads.queries);
    let (mut weights, mut grad) = (&piece.weights[..], grad);
    for span in &piece.spans {
        let (own_weights, later_weights) =
            weights.split_at(heads * span.queries.len() * span.keys());
        let (own, later) = grad.split_at(span.queries.len() * width);
        kernels::attend_backward(packed, span, own_weights, own, out, piece.rows.start);
        (weights, grad) = (later_weights, later);
    }
}

/// Cuts the batch where no later span uses an earlier row.
fn cut(spans: &Spans, heads: usize) -> Vec<Piece> {
    let spans: Vec<&Span> = spans.iter().collect();
    let first_row = |span: &Span| {
        if span.prefix.is_empty() {
            span.own.start
        } else {
            span.prefix.start.min(span.own.start)
        }
    };
    // The first row that a span or any later one uses.
    let mut first_from_here: Vec<usize> = spans.iter().map(|span| first_row(span)).collect();
    for index in (1..first_from_here.len()).rev() {
        first_from_here[index - 1] = first_from_here[index - 1].min(first_from_here[index]);
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for (span, &first) in spans.into_iter().zip(&first_from_here) {
        let weights = heads * span.queries.len() * span.keys();
        let end = span.own.end.max(span.prefix.end);
        match pieces.last_mut() {
            Some(piece) if first < piece.rows.end => {
                piece.spans.push(span.clone());
                piece.rows = piece.rows.start.min(first)..piece.rows.end.max(end);
                piece.weights.resize(piece.weights.len() + weights, 0.0);
            }
            _ => pieces.push(Piece {
                spans: vec![span.clone()],
                rows: first..end,
                weights: vec![0.0; weights],
            }),
        }
    }
    pieces
}

//! The output head that shares its weights with the token embedding.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::Tensor;

use super::{Flat, Input, new, record, values};
use crate::kernels::{MatMut, MatRef, add_product, parallel};

/// Tokens of the vocabulary that one piece of work computes.
const TOKENS: usize = 512;

#[derive(Debug)]
struct TiedHead;

#[derive(Clone, Debug)]
struct State {
    /// `[rows, width]`.
    x: Flat,
    /// `[vocab, width]`.
    embedding: Flat,
}

impl State {
    fn sizes(&self) -> [usize; 3] {
        let (x, embedding) = (self.x.layout().shape(), self.embedding.layout().shape());
        [x[0], embedding[0], x[1]]
    }
}

pub(in crate::ops) fn tied_head(x: Tensor<2>, embedding: &Tensor<2>) -> Tensor<2> {
    let (x, embedding) = (Input::new(x), Input::new(embedding.clone()));
    let state = State {
        x: x.contiguous(),
        embedding: embedding.contiguous(),
    };
    let [rows, vocab, _] = state.sizes();
    let out = new(logits(&state), [rows, vocab]);
    record(TiedHead, [x, embedding], out, || state)
}

/// The work is cut along the vocabulary, of which there is always enough for all threads.
fn logits(state: &State) -> Vec<f32> {
    let [rows, vocab, width] = state.sizes();
    let (x, embedding) = (values(&state.x), values(&state.embedding));
    let mut parts: Vec<Vec<f32>> = vec![Vec::new(); vocab.div_ceil(TOKENS)];
    parallel::for_each(parts.iter_mut().enumerate().collect(), |(index, part)| {
        let first = index * TOKENS;
        let tokens = TOKENS.min(vocab - first);
        *part = vec![0.0; rows * tokens];
        let weights = &embedding[first * width..][..tokens * width];
        let weights = MatRef::new(weights, [tokens, width]).transposed();
        let x = MatRef::new(x, [rows, width]);
        add_product(x, weights, MatMut::new(part, [rows, tokens]));
    });
    let mut out = vec![0.0; rows * vocab];
    parallel::rows(&mut out, vocab, |first, out| {
        for (row, out) in out.chunks_exact_mut(vocab).enumerate() {
            for (part, out) in parts.iter().zip(out.chunks_mut(TOKENS)) {
                out.copy_from_slice(&part[(first + row) * out.len()..][..out.len()]);
            }
        }
    });
    out
}

impl Backward<Flex, 2> for TiedHead {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [rows, vocab, width] = ops.state.sizes();
        let (x, embedding) = (values(&ops.state.x), values(&ops.state.embedding));
        let grad = values(&grad);
        let [x_node, embedding_node] = ops.parents;
        if let Some(node) = x_node {
            let mut out = vec![0.0; rows * width];
            parallel::rows(&mut out, width, |first, out| {
                let count = out.len() / width;
                let grad = MatRef::new(&grad[first * vocab..], [count, vocab]);
                let embedding = MatRef::new(embedding, [vocab, width]);
                add_product(grad, embedding, MatMut::new(out, [count, width]));
            });
            grads.register::<Flex>(node.id, new(out, [rows, width]));
        }
        if let Some(node) = embedding_node {
            let mut out = vec![0.0; vocab * width];
            parallel::rows(&mut out, width, |first, out| {
                let count = out.len() / width;
                let grad = MatRef::strided(&grad[first..], [rows, count], vocab).transposed();
                let x = MatRef::new(x, [rows, width]);
                add_product(grad, x, MatMut::new(out, [count, width]));
            });
            grads.register::<Flex>(node.id, new(out, [vocab, width]));
        }
    }
}

//! The operations that models and trainers are built from.
//!
//! Each is a plain function on tensors. [`composed`] holds their definitions in burn's own operations: what
//! they mean. On the CPU device each runs as one fused loop with a handwritten gradient; a tensor of 16 bits is widened
//! there, worked on in 32 bits, and the result is rounded once. On other devices what has a gradient worth writing by hand
//! is in [`device`], and the rest is as defined.
//!
//! On the CPU device burn's own sums, means, products of matrices, `exp` and `log` are not used at all: the order of
//! their additions, or the library they call, depends on the processor. Everything with a sum in it is here.

pub mod adamw;
mod cache;
pub mod composed;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod cube;
pub mod device;
pub mod draw;
mod dropout;
mod fused;
mod gather;
mod graph;
mod heads;
mod pixels;
mod spans;
mod squares;

use burn::tensor::{DType, Tensor};

pub use adamw::{AdamWFactors, adamw};
pub use cache::KvCache;
pub use composed::{Activation, Adapter};
pub use dropout::{Dropout, DropoutKeys};
pub use heads::{Heads, Rotary};
pub use pixels::{Column, Levels, Pixels};
pub use spans::{Continuation, Span, Spans};
pub use squares::sums_of_squares;

use crate::host::on_host;
use crate::quant::is_quantised;
use graph::plain;

/// One behind the other along `dim`; a single tensor as it is.
///
/// # Panics
/// If there is none.
pub fn joined<const D: usize>(mut tensors: Vec<Tensor<D>>, dim: usize) -> Tensor<D> {
    match tensors.len() {
        1 => tensors.remove(0),
        _ => Tensor::cat(tensors, dim),
    }
}

/// In 32 bits; differentiable.
fn wide<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::F32 => tensor.clone(),
        _ => tensor.clone().cast(DType::F32),
    }
}

/// Calls an operation of the CPU device on `x` in 32 bits, and gives its result in `x`'s own type.
fn widened<const A: usize, const B: usize>(
    x: &Tensor<A>,
    operation: impl FnOnce(Tensor<A>) -> Tensor<B>,
) -> Tensor<B> {
    let own = x.dtype();
    let result = operation(wide(x));
    match own {
        DType::F32 => result,
        own => result.cast(own),
    }
}

/// Log-probability of each row's target: `log_softmax(logits / temperature)[row, targets[row]]`.
///
/// `logits`: `[rows, vocab]`; the result has one entry per row and is differentiable in the logits.
///
/// # Panics
/// If there are not as many targets as rows, or the temperature is not positive.
pub fn token_logprobs(logits: Tensor<2>, targets: &[u32], temperature: f64) -> Tensor<1> {
    assert_eq!(
        logits.dims()[0],
        targets.len(),
        "one target per row of logits"
    );
    assert!(
        temperature > 0.0,
        "log-probabilities need a positive temperature"
    );
    if on_host(&logits) {
        return fused::token_logprobs(wide(&logits), targets, temperature);
    }
    device::token_logprobs(logits, targets, temperature)
}

/// Entropy in nats of each row's distribution `softmax(logits / temperature)`: `[rows, vocab]` to `[rows]`. It is for
/// the log: no gradient goes through it.
///
/// # Panics
/// If the temperature is not positive.
pub fn entropy(logits: Tensor<2>, temperature: f64) -> Tensor<1> {
    assert!(temperature > 0.0, "an entropy needs a positive temperature");
    let logits = plain(logits);
    if on_host(&logits) {
        return fused::entropy(wide(&logits), temperature);
    }
    composed::entropy(logits, temperature)
}

/// Sum of the squares of each row: `[rows, width]` to `[rows]`, in 32 bits. No gradient goes through it.
pub fn squares_of_rows(x: Tensor<2>) -> Tensor<1> {
    let x = plain(x);
    if on_host(&x) {
        return fused::squares_of_rows(wide(&x));
    }
    composed::squares_of_rows(x)
}

/// `sum(x[i] * weights[i])`, the terms added in order: `[n]` to `[1]`. Losses are such sums.
///
/// # Panics
/// If there are not as many weights as values.
pub fn weighted_sum(x: Tensor<1>, weights: &[f32]) -> Tensor<1> {
    assert_eq!(x.dims()[0], weights.len(), "one weight per value");
    if on_host(&x) {
        return fused::weighted_sum(wide(&x), weights);
    }
    composed::weighted_sum(x, weights)
}

/// A number whose gradient in `x` is `gradient`; its own value means nothing. Differentiating it sends a gradient that
/// is known on through what `x` was computed from.
pub fn sent_back(x: Tensor<2>, gradient: Tensor<2>) -> Tensor<1> {
    let gradient = plain(gradient);
    if on_host(&x) {
        return fused::sent_back(wide(&x), wide(&gradient));
    }
    composed::sent_back(x, gradient)
}

/// `exp(x)`, element by element.
pub fn exp(x: Tensor<1>) -> Tensor<1> {
    if on_host(&x) {
        return widened(&x, fused::exp);
    }
    x.exp()
}

/// Means of stretches of `rows` rows: `[n * rows, width]` to `[n, width]`.
///
/// # Panics
/// If the rows do not come to whole stretches.
pub fn mean_of_rows(x: Tensor<2>, rows: usize) -> Tensor<2> {
    assert!(
        rows > 0 && x.dims()[0].is_multiple_of(rows),
        "whole stretches of rows"
    );
    if on_host(&x) {
        return widened(&x, |x| fused::mean_of_rows(x, rows));
    }
    composed::mean_of_rows(x, rows)
}

/// `activation(x @ weight + bias)`, with a low-rank adapter's `scale * (dropped(x) @ a) @ b` added before the
/// activation.
///
/// `x`: `[rows, in]`, `weight`: `[in, out]`, `bias`: `[1, out]` or none; gives `[rows, out]`. A
/// [quantised](crate::quant) weight is dequantised in the type of `x` whenever its values are needed, and has no
/// gradient.
pub fn linear(
    x: Tensor<2>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<2>>,
    adapter: Option<&Adapter>,
    activation: Activation,
) -> Tensor<2> {
    if on_host(&x) {
        let bias = bias.map(wide);
        let weight = match is_quantised(weight) {
            true => fused::Weight::Quantised(weight.clone(), x.dtype()),
            false => fused::Weight::Plain(wide(weight)),
        };
        return widened(&x, |x| {
            fused::linear(x, weight, bias.as_ref(), adapter, activation)
        });
    }
    device::linear(x, weight, bias, adapter, activation)
}

/// A convolution whose windows do not overlap: `patches @ kernel`, each sum in the order of the values of a patch.
///
/// `patches`: `[rows, in]`, `kernel`: `[in, out]`; gives `[rows, out]`.
pub fn convolve(patches: Tensor<2>, kernel: &Tensor<2>) -> Tensor<2> {
    if on_host(&patches) {
        return widened(&patches, |patches| fused::convolve(patches, &wide(kernel)));
    }
    device::product_in_graph(patches, kernel.clone())
}

/// Logits from an output head that shares its weights with the token embedding: `x @ embedding^T`.
///
/// `x`: `[rows, width]`, `embedding`: `[vocab, width]`; gives `[rows, vocab]`.
pub fn tied_head(x: Tensor<2>, embedding: &Tensor<2>) -> Tensor<2> {
    if on_host(&x) {
        return widened(&x, |x| fused::tied_head(x, &wide(embedding)));
    }
    device::product_in_graph(x, embedding.clone().transpose())
}

/// Layer normalisation over the last dimension: `[rows, width]` to `[rows, width]`; `epsilon` is added to the variance.
///
/// `scale` and `shift`: `[1, width]`.
pub fn layer_norm(x: Tensor<2>, scale: &Tensor<2>, shift: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    if on_host(&x) {
        return widened(&x, |x| {
            fused::layer_norm(x, &wide(scale), &wide(shift), epsilon)
        });
    }
    device::layer_norm(x, scale, shift, epsilon)
}

/// Multi-head scaled dot-product attention over packed sequences.
///
/// `qkv`: `[rows, (heads.queries + 2 * heads.keys) * head width]`, queries, keys and values side by side, heads side
/// by side within each; gives `[spans.outputs(), heads.queries * head width]`.
pub fn attention(qkv: Tensor<2>, spans: &Spans, heads: Heads) -> Tensor<2> {
    if on_host(&qkv) {
        return widened(&qkv, |qkv| fused::attention(qkv, spans, heads));
    }
    device::attention(qkv, spans, heads)
}

/// Root-mean-square normalisation over the last dimension (Zhang and Sennrich 2019): `[rows, width]` to
/// `[rows, width]`.
///
/// `scale`: `[1, width]`.
pub fn rms_norm(x: Tensor<2>, scale: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    if on_host(&x) {
        return widened(&x, |x| fused::rms_norm(x, &wide(scale), epsilon));
    }
    device::rms_norm(x, scale, epsilon)
}

/// `silu(gate) * up`, element by element (SwiGLU, Shazeer 2020).
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if on_host(&gate) {
        return widened(&gate, |gate| fused::swiglu(gate, wide(&up)));
    }
    device::swiglu(gate, up)
}

/// Rotary positions (Su et al. 2021) on the first `heads` heads of each row; what follows them stays as it is.
///
/// Of a head, value i and value i + half are one pair, turned by the angle i of the row.
pub fn rotate(x: Tensor<2>, rotary: &Rotary, heads: usize) -> Tensor<2> {
    if on_host(&x) {
        return widened(&x, |x| fused::rotate(x, rotary, heads));
    }
    device::rotate(x, rotary, heads)
}

/// As [`rotate`], computed in 32 bits whatever the type of `x`: Transformers turns the heads of a vision tower so, and
/// those of a decoder in the model's own type.
pub fn rotate_wide(x: Tensor<2>, rotary: &Rotary, heads: usize) -> Tensor<2> {
    if on_host(&x) {
        return widened(&x, |x| fused::rotate(x, rotary, heads));
    }
    device::rotate_wide(x, rotary, heads)
}

/// Rows of `x` by index, repeats allowed: `[rows, width]` to `[indices.len(), width]`.
pub fn take_rows(x: Tensor<2>, indices: &[u32]) -> Tensor<2> {
    if on_host(&x) {
        return widened(&x, |x| fused::take_rows(x, indices));
    }
    composed::take_rows(x, indices)
}

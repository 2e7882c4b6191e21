//! The operations that models and trainers are built from.
//!
//! Each is a plain function on tensors. [`composed`] holds their definitions in burn's own operations: what
//! they mean, and what runs on any device; on the CPU device each runs as one fused loop with a handwritten
//! gradient instead.

mod cache;
pub mod composed;
mod fused;
mod heads;
mod spans;

use burn::tensor::Tensor;

pub use cache::KvCache;
pub(crate) use composed::NORM_EPSILON;
pub use composed::{Activation, Adapter, Dropout};
pub use heads::{Heads, Rotary};
pub use spans::{Span, Spans};

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
    if fused::can_take(&logits) {
        return fused::token_logprobs(logits, targets, temperature);
    }
    composed::token_logprobs(logits, targets, temperature)
}

/// Entropy in nats of each row's distribution `softmax(logits / temperature)`: `[rows, vocab]` to `[rows]`.
///
/// # Panics
/// If the temperature is not positive.
pub fn entropy(logits: Tensor<2>, temperature: f64) -> Tensor<1> {
    assert!(temperature > 0.0, "an entropy needs a positive temperature");
    composed::entropy(logits, temperature)
}

/// `activation(x @ weight + bias)`, with a low-rank adapter's `scale * (dropped(x) @ a) @ b` added before the
/// activation.
///
/// `x`: `[rows, in]`, `weight`: `[in, out]`, `bias`: `[1, out]` or none; gives `[rows, out]`.
pub fn linear(
    x: Tensor<2>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<2>>,
    adapter: Option<&Adapter>,
    activation: Activation,
) -> Tensor<2> {
    if fused::can_take(&x) {
        return fused::linear(x, weight, bias, adapter, activation);
    }
    composed::linear(x, weight, bias, adapter, activation)
}

/// A convolution whose windows do not overlap: `patches @ kernel`, each sum in the order of the values of a patch.
///
/// `patches`: `[rows, in]`, `kernel`: `[in, out]`; gives `[rows, out]`.
pub fn convolve(patches: Tensor<2>, kernel: &Tensor<2>) -> Tensor<2> {
    if fused::can_take(&patches) {
        return fused::convolve(patches, kernel);
    }
    composed::convolve(patches, kernel)
}

/// Logits from an output head that shares its weights with the token embedding: `x @ embedding^T`.
///
/// `x`: `[rows, width]`, `embedding`: `[vocab, width]`; gives `[rows, vocab]`.
pub fn tied_head(x: Tensor<2>, embedding: &Tensor<2>) -> Tensor<2> {
    if fused::can_take(&x) {
        return fused::tied_head(x, embedding);
    }
    composed::tied_head(x, embedding)
}

/// Layer normalisation over the last dimension with epsilon 1e-5: `[rows, width]` to `[rows, width]`.
///
/// `scale` and `shift`: `[1, width]`.
pub fn layer_norm(x: Tensor<2>, scale: &Tensor<2>, shift: &Tensor<2>) -> Tensor<2> {
    if fused::can_take(&x) {
        return fused::layer_norm(x, scale, shift);
    }
    composed::layer_norm(x, scale, shift)
}

/// Multi-head scaled dot-product attention over packed sequences.
///
/// `qkv`: `[rows, (heads.queries + 2 * heads.keys) * head width]`, queries, keys and values side by side, heads side
/// by side within each; gives `[spans.outputs(), heads.queries * head width]`.
pub fn attention(qkv: Tensor<2>, spans: &Spans, heads: Heads) -> Tensor<2> {
    if fused::can_take(&qkv) {
        return fused::attention(qkv, spans, heads);
    }
    composed::attention(qkv, spans, heads)
}

/// Root-mean-square normalisation over the last dimension (Zhang and Sennrich 2019): `[rows, width]` to
/// `[rows, width]`.
///
/// `scale`: `[1, width]`.
pub fn rms_norm(x: Tensor<2>, scale: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    if fused::can_take(&x) {
        return fused::rms_norm(x, scale, epsilon);
    }
    composed::rms_norm(x, scale, epsilon)
}

/// `silu(gate) * up`, element by element (SwiGLU, Shazeer 2020).
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if fused::can_take(&gate) {
        return fused::swiglu(gate, up);
    }
    composed::swiglu(gate, up)
}

/// Rotary positions (Su et al. 2021) on the first `heads` heads of each row; what follows them stays as it is.
///
/// Of a head, value i and value i + half are one pair, turned by the angle i of the row.
pub fn rotate(x: Tensor<2>, rotary: &Rotary, heads: usize) -> Tensor<2> {
    if fused::can_take(&x) {
        return fused::rotate(x, rotary, heads);
    }
    composed::rotate(x, rotary, heads)
}

/// As [`rotate`], computed in 32 bits whatever the type of `x`: Transformers turns the heads of a vision tower so, and
/// those of a decoder in the model's own type.
pub fn rotate_wide(x: Tensor<2>, rotary: &Rotary, heads: usize) -> Tensor<2> {
    if fused::can_take(&x) {
        return fused::rotate(x, rotary, heads);
    }
    composed::rotate_wide(x, rotary, heads)
}

/// Rows of `x` by index, repeats allowed: `[rows, width]` to `[indices.len(), width]`.
pub fn take_rows(x: Tensor<2>, indices: &[u32]) -> Tensor<2> {
    if fused::can_take(&x) {
        return fused::take_rows(x, indices);
    }
    composed::take_rows(x, indices)
}

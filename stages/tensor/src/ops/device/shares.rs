//! What sequences that continue prefixes give of their attention to the prefix's rows and to their own.

use burn::tensor::{Int, Tensor, activation};

use super::scores::{Scores, Seen};
use super::width::{typed, wide};

/// Scores to weights: one softmax over both. As in Transformers it runs in 32 bits, whatever the model's type is. Rows that
/// are not there get 0.
pub(super) fn weights(scores: Scores, seen: &Seen<'_>) -> Scores {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if !crate::host::on_host(&scores.own) {
        return super::kernels::weights(scores, seen);
    }
    let dtype = scores.own.dtype();
    let [prefixes, keys, _, longest] = scores.prefix.dims();
    let [sequences, _, group, room] = scores.own.dims();
    let each = seen.each;
    let device = scores.own.device();
    let hidden = |count: usize, seen: Tensor<1, Int>| -> Tensor<4> {
        let shape = [seen.dims()[0], count];
        let places = Tensor::<1, Int>::arange(0..count as i64, &device);
        let places: Tensor<2, Int> = places.reshape([1, count]);
        let seen: Tensor<2, Int> = seen.reshape([shape[0], 1]);
        let hidden = places.expand(shape).greater_equal(seen.expand(shape));
        (hidden.float() * f32::MIN).reshape([shape[0], 1, 1, count])
    };
    let of_prefix = wide(&scores.prefix) * seen.scale + hidden(longest, seen.lengths.clone());
    let by_sequence = of_prefix
        .reshape([prefixes, keys, each, group, longest])
        .permute([0, 2, 1, 3, 4])
        .reshape([sequences, keys, group, longest]);
    let own = wide(&scores.own) * seen.scale + hidden(room, seen.own.clone());
    let weights = activation::softmax(Tensor::cat(vec![by_sequence, own], 3), 3);
    let part = |columns: std::ops::Range<usize>| {
        let part = [0..sequences, 0..keys, 0..group, columns];
        typed(weights.clone().slice(part), dtype)
    };
    Scores {
        prefix: part(0..longest)
            .reshape([prefixes, each, keys, group, longest])
            .permute([0, 2, 1, 3, 4])
            .reshape([prefixes, keys, each * group, longest]),
        own: part(longest..longest + room),
    }
}

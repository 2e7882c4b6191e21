//! Wrong labels in the training set.

use dcsft_tensor::rng::StreamKey;

use super::names::OBJECTS;
use super::params::ShapesParams;
use super::set::Set;

/// What the picture `index` of `set` is called instead of its `object`, if its label is a wrong one.
///
/// Draws are keyed apart from the pictures', so the pictures stay as they are, and what a small share makes wrong a
/// larger one makes wrong in the same way.
pub(super) fn wrong_name(
    params: &ShapesParams,
    set: Set,
    index: u64,
    object: usize,
) -> Option<&'static str> {
    if set != Set::Train || params.label_noise == 0.0 {
        return None;
    }
    let mut stream = StreamKey::new("shapes label noise", params.seed)
        .number(index)
        .stream();
    let wrong = stream.uniform() < params.label_noise;
    let step = 1 + stream.below(OBJECTS.len() as u64 - 1) as usize;
    wrong.then(|| OBJECTS[(object + step) % OBJECTS.len()])
}

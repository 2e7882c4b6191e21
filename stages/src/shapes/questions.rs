//! Questions about a picture and their answers.

use dcsft_tensor::rng::Stream;

use super::names::{OBJECTS, SCENES};
use super::picture::Picture;
use super::set::Set;

/// Bytes of the longest question.
pub(super) const LONGEST: usize = "caption".len();

/// Bytes of each answer that a set may ask for; of pre-training those of the captions.
pub(super) fn answer_bytes(set: Set) -> impl Iterator<Item = usize> {
    let names = OBJECTS.iter().map(|name| name.len());
    // A caption is longer by " on " and a scene; all other sets ask for the name alone.
    let scenes = match set {
        Set::Pretrain => SCENES
            .iter()
            .map(|scene| " on ".len() + scene.len())
            .collect(),
        _ => vec![0],
    };
    names.flat_map(move |name| scenes.clone().into_iter().map(move |scene| name + scene))
}

/// The question and the right answer.
///
/// Pre-training asks "object?" and "caption" (3/8 each, both answered by the whole caption, so that the base
/// model never gives the answers of the task) and "scene?" (1/4). All other sets ask "object?", answered by
/// the name.
pub(super) fn ask(set: Set, picture: &Picture, stream: &mut Stream) -> (String, String) {
    let (object, scene) = (OBJECTS[picture.object], SCENES[picture.scene]);
    if set != Set::Pretrain {
        return ("<image>object?".into(), object.into());
    }
    match stream.below(8) {
        0..3 => ("<image>object?".into(), format!("{object} on {scene}")),
        3..6 => ("<image>caption".into(), format!("{object} on {scene}")),
        _ => ("<image>scene?".into(), scene.into()),
    }
}

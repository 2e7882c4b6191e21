//! An encoded conversation, and how it may be encoded.

use super::images::Patches;

/// How a conversation is encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// The model is to answer next: the sequence ends with the start of its message, and the assistant's messages are
    /// labels only with `train_turns`. Otherwise the sequence ends at the last end token, and they are labels.
    pub generation_prompt: bool,
    /// With `generation_prompt`: the assistant's messages so far are labels. Each is encoded by itself then, as in a
    /// whole conversation.
    pub train_turns: bool,
    /// Images are announced as `Picture 1: `, `Picture 2: ` and so on.
    pub add_vision_id: bool,
    /// Longer sequences are refused.
    pub max_tokens: Option<usize>,
}

impl Encode {
    /// Up to where the model's answer begins.
    pub const PROMPT: Self = Self {
        generation_prompt: true,
        train_turns: false,
        add_vision_id: false,
        max_tokens: None,
    };

    /// The same, where what the assistant has said before is to be learnt too.
    pub const TURNS: Self = Self {
        train_turns: true,
        ..Self::PROMPT
    };
}

/// A conversation, encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// Token ids; an image's place is taken by those that stand for it.
    pub ids: Vec<u32>,
    /// What is trained: the assistant's tokens and the end token after each of its messages, as ms-swift does.
    /// `labels[i]` is `ids[i]` or none; the prediction of `ids[i]` is made at `i - 1`.
    pub labels: Vec<Option<u32>>,
    /// Positions in time, height and width; all the same in a model of plain positions.
    pub positions: [Vec<u32>; 3],
    /// The position, in all three, of the token after the last.
    pub next_position: u32,
    /// The images, in order.
    pub images: Vec<Patches>,
}

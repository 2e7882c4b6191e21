//! The sets of the world.

use crate::data::Split;

/// A set of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// The samples that are scored and fine-tuned on.
    Train,
    /// The few samples of the cold start.
    ColdStart,
    /// Evaluation in distribution.
    Val,
    /// All styles, every scene as likely for every object.
    Pretrain,
    /// Out of distribution: other styles.
    Rendition,
    /// Out of distribution: always another object's scene.
    Adversarial,
}

impl Set {
    /// All sets; the first is the stage's default output.
    pub const ALL: [Self; 6] = [
        Self::Train,
        Self::ColdStart,
        Self::Val,
        Self::Pretrain,
        Self::Rendition,
        Self::Adversarial,
    ];

    /// The set's name, which is its output's too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::ColdStart => "cold_start",
            Self::Val => "val",
            Self::Pretrain => "pretrain",
            Self::Rendition => "rendition",
            Self::Adversarial => "adversarial",
        }
    }

    /// In or out of distribution.
    pub fn split(self) -> Split {
        match self {
            Self::Rendition | Self::Adversarial => Split::Ood,
            Self::Train | Self::ColdStart | Self::Val | Self::Pretrain => Split::Id,
        }
    }
}

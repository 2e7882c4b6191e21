//! Why a reward cannot be given.

/// Why a reward cannot be given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// The right answer has no box.
    #[error("the right answer {0:?} has no box; write it as [x1, y1, x2, y2]")]
    NoBox(String),
    /// No answer can overlap the right box enough, not even the box itself.
    #[error("no answer can be right: {answer:?} overlaps itself by {overlap}; {why}")]
    UnmetBox {
        /// The right answer.
        answer: String,
        /// Its overlap with itself.
        overlap: f64,
        /// What is unusual about the box.
        why: &'static str,
    },
    /// Two boxes whose union has no area.
    #[error("the boxes in {0:?} and {1:?} have a union without area")]
    EmptyUnion(String, String),
    /// The right answer is not a number.
    #[error("the right answer {0:?} has no number")]
    NoNumber(String),
    /// The right answer is something that looks like a number and is not plainly one.
    #[error("the right answer {0:?} is not plainly one number; write it as in 1234.5, 3/4 or 2e6")]
    UnclearNumber(String),
    /// The right answer has more than one number.
    #[error("the right answer {0:?} has several numbers; write the one that is right")]
    SeveralNumbers(String),
    /// Nothing is left of the right answer.
    #[error("the right answer is empty, or nothing but full stops")]
    NoAnswer,
    /// The pattern of `regex` can never find the right answer.
    #[error("no answer can be right: the pattern {pattern:?} never finds {answer:?}")]
    Unextractable {
        /// The right answer.
        answer: String,
        /// The pattern.
        pattern: String,
    },
    /// The right answer is not right by its own reward.
    #[error("no answer can be right: {0:?} does not score 1 against itself")]
    NeverRight(String),
    /// The right answer names no option.
    #[error(
        "the right answer {0:?} names no option; write its letter, as in `B`, or letter and text, as in `B. a cat`"
    )]
    NoOption(String),
}

//! Multiple-choice answers: `B`, `(b)`, `B. a cat`, `The answer is B.`, `a cat`.

use std::sync::LazyLock;

use regex::Regex;

use super::RewardError;
use super::exact::{normalise, python_strip};

/// A letter at the start: alone, in brackets, or before `.`, `:` or `)` and the option's text.
static LABELLED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?s)^(?:\(([A-Za-z])\)|([A-Za-z])(?:[.:)]|$))\.?\s*(.*)$")
        .expect("a constant pattern")
});

/// `answer: B`, `the answer is (B)`, with nothing but punctuation or an option's text after the letter.
static ANNOUNCED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i:answer(?:\s+is)?|option|choice)\s*:?\s*\**\(?([A-Z])\)?(?:\W|$)")
        .expect("a constant pattern")
});

/// An option as it is written in an answer.
struct Choice {
    /// Upper-case letter.
    letter: Option<char>,
    /// The option's normalised text, empty where only a letter was given.
    text: String,
}

/// Letters decide where both sides have one; otherwise the option's text does.
pub(super) fn right(completion: &str, answer: &str) -> bool {
    let right = read(answer);
    let mut found = read(completion);
    if found.letter.is_none() {
        found.letter = ANNOUNCED
            .captures(completion)
            .and_then(|captures| captures[1].chars().next());
    }
    match (found.letter, right.letter) {
        (Some(found), Some(right)) => found == right,
        _ => !right.text.is_empty() && found.text == right.text,
    }
}

pub(super) fn check(answer: &str) -> Result<(), RewardError> {
    let choice = read(answer);
    if choice.letter.is_none() && choice.text.is_empty() {
        return Err(RewardError::NoOption(answer.to_owned()));
    }
    Ok(())
}

fn read(text: &str) -> Choice {
    let text = python_strip(text);
    match LABELLED.captures(text) {
        Some(captures) => Choice {
            letter: captures
                .get(1)
                .or_else(|| captures.get(2))
                .and_then(|letter| letter.as_str().to_ascii_uppercase().chars().next()),
            text: normalise(captures.get(3).map_or("", |text| text.as_str())),
        },
        None => Choice {
            letter: None,
            text: normalise(text),
        },
    }
}

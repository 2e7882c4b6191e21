//! Multiple-choice answers: `B`, `(b)`, `B. a cat`, `The answer is B.`, `<answer>B</answer>`, `a cat`.
//!
//! A letter counts where the text commits itself to it. The last announcement (`answer: B`) decides; without one, a
//! letter at the start, in brackets, or in a sentence such as `so B`, if no other letter is mentioned. A letter that is
//! denied, or one of several, is none.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::error::RewardError;
use super::exact::{normalise, python_strip};
use super::scope::{scope, unstyled};

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a constant pattern")
}

/// A letter at the start: alone, in brackets, or before `.`, `:` or `)` and the option's text.
static LABELLED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?s)^(?:(?i:option|choice)\s+)?(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?:[.:)]|\s*$|[ \t]*\n))\.?\s*(.*)$",
    )
});
/// The rest of an abbreviation such as `a.m.`, which is no label.
static ABBREVIATION: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[A-Za-z]\."));
/// Lines that list options.
static LISTED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?m)^[ \t]*\(?([A-Z])[.:)](?:[ \t]|$)"));
/// Where a text says what its answer is.
static ANNOUNCED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:answer|(?:correct|right|best)\s+(?:option|choice|letter))\b(?:\s+(?:is|would\s+be|must\s+be|should\s+be)\b)?\s*[:=]?\s*",
    )
});
/// Words between an announcement and its letter.
static FILLER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"^(?i:(?:(?:the|most\s+likely|probably|clearly|definitely|option|choice|letter)\b|[:=("'\[])\s*)*"#,
    )
});
static DENIAL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:not|never|cannot|wrong|incorrect|false|neither|nor|except|eliminated?|excluded?)\b|n't\b|\brules?\s+out\b",
    )
});
/// A second letter beside an announced one.
static SECOND: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"^[)\].'"]*\s*(?:,|/|&|\+|\b(?i:or|and)\b)\s*(?i:or\s+|and\s+)?(?i:(?:option|choice)\s+)?\(?([A-Z])\b"#,
    )
});
/// Sentences that commit themselves to a letter, and letters in brackets.
static SENTENCES: LazyLock<[Regex; 4]> = LazyLock::new(|| {
    [
        pattern(r"\(([A-Z])\)"),
        pattern(r"\b(?i:option|choice)\s+\(?([A-Z])\b"),
        pattern(
            r"\b([A-Z])\)?\s+(?:is|seems|looks|must be|would be)\s+(?:the\s+)?(?:most\s+|likely\s+)*(?i:correct|right|best|answer)\b",
        ),
        pattern(
            r"\b(?i:it\s+is|it's|must\s+be|so|therefore|thus|hence|i\s+think|i'd\s+say|choose|pick|select|go\s+with),?\s+\(?([A-Z])\b",
        ),
    ]
});
/// Any letter that stands alone, but for those that are words.
static ALONE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b([B-HJ-Z])\b"));
/// A right answer of several letters.
static SEVERAL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^\(?[A-Z]\)?(?:\s*[,;/&+]\s*(?:and\s+|or\s+)?|\s+(?i:and|or)\s+)\(?[A-Z]\)?(?:\W|$)")
});
/// What may follow the letter A; before any other word it is an article.
static AFTER_A: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^\s+(?:is|because|since|as|and|or|for|due|which|that|but|not|if|seems|looks|must|would)\b",
    )
});

/// An option as it is written in an answer.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Choice {
    /// Upper-case letter.
    letter: Option<char>,
    /// The option's normalised text, empty where only a letter was given.
    text: String,
    /// Letters were mentioned, and none of them is the answer.
    unclear: bool,
    /// The whole answer, normalised.
    whole: String,
    /// What follows the last announcement, normalised.
    announced: String,
}

impl Choice {
    /// Whether this answer names the option `right`: the option's own text always does; else letters decide where both
    /// have one.
    pub(crate) fn names(&self, right: &Self) -> bool {
        let text = &right.text;
        if !text.is_empty() && (self.whole == *text || self.announced == *text) {
            return true;
        }
        match (self.letter, right.letter) {
            (Some(found), Some(right)) => found == right,
            _ => !text.is_empty() && !self.unclear && self.text == *text,
        }
    }
}

pub(super) fn right(completion: &str, answer: &str) -> bool {
    read(completion).names(&read(answer))
}

pub(super) fn check(answer: &str) -> Result<(), RewardError> {
    let choice = read(answer);
    let several = SEVERAL.is_match(python_strip(scope(answer)));
    if several || choice.unclear || (choice.letter.is_none() && choice.text.is_empty()) {
        return Err(RewardError::NoOption(answer.to_owned()));
    }
    Ok(())
}

/// What option a text names.
pub(crate) fn read(text: &str) -> Choice {
    let text = unstyled(scope(text)).replace(['*', '`'], "");
    let text = python_strip(&text);
    let whole = normalise(text);
    let mut choice = Choice {
        letter: None,
        text: whole.clone(),
        unclear: false,
        whole,
        announced: String::new(),
    };
    if let Some(rest) = ANNOUNCED
        .find_iter(text)
        .last()
        .map(|found| &text[found.end()..])
    {
        choice.announced = normalise(rest);
    }
    if let Some(said) = announced(text) {
        choice.letter = said;
        choice.unclear = said.is_none();
        return choice;
    }
    if let Some((letter, rest)) = labelled(text) {
        let listed: BTreeSet<&str> = LISTED
            .captures_iter(text)
            .filter_map(|found| found.get(1).map(|letter| letter.as_str()))
            .collect();
        choice.unclear = listed.len() > 1;
        choice.letter = (!choice.unclear).then_some(letter);
        choice.text = normalise(rest);
        return choice;
    }
    let mentioned = mentioned(text);
    choice.unclear = !mentioned.is_empty();
    if mentioned.len() == 1 && !DENIAL.is_match(text) {
        choice.letter = mentioned.first().copied();
        choice.unclear = false;
    }
    choice
}

/// The last announcement that names a letter or denies one; a letter where it names one alone.
fn announced(text: &str) -> Option<Option<char>> {
    let mut last = None;
    for found in ANNOUNCED.find_iter(text) {
        let rest = &text[found.end()..];
        let filled = FILLER.find(rest).map_or(0, |filler| filler.end());
        let tail = &rest[filled..];
        let denied = DENIAL.find(tail).is_some_and(|denial| denial.start() == 0);
        let said = if denied {
            None
        } else {
            let Some(letter) = letter_at(tail) else {
                continue;
            };
            let second = SECOND.captures(&tail[1..]).and_then(|second| {
                let second = second.get(1)?;
                letter_at(&tail[1 + second.start()..])
            });
            (second.is_none() || second == Some(letter)).then_some(letter)
        };
        last = Some(said);
    }
    last
}

/// The option's letter at the start of `text`, if it is one and no article or pronoun.
fn letter_at(text: &str) -> Option<char> {
    let letter = text.chars().next().filter(char::is_ascii_alphabetic)?;
    let rest = &text[1..];
    let next = rest.chars().next();
    if next.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '\'' || c == '\u{2019}') {
        return None;
    }
    let word = rest
        .trim_start()
        .chars()
        .next()
        .is_some_and(char::is_alphabetic)
        && next.is_some_and(char::is_whitespace);
    let is_word = match letter {
        'A' => word && !AFTER_A.is_match(rest),
        'I' => word,
        lower if lower.is_ascii_lowercase() => word,
        _ => false,
    };
    (!is_word).then(|| letter.to_ascii_uppercase())
}

fn labelled(text: &str) -> Option<(char, &str)> {
    let found = LABELLED.captures(text)?;
    let letter = (1..=3).find_map(|index| found.get(index))?;
    let rest = found.get(4).map_or("", |rest| rest.as_str());
    let abbreviated = found.get(3).is_some()
        && text[letter.end()..].starts_with('.')
        && ABBREVIATION.is_match(&text[letter.end() + 1..]);
    let letter = letter.as_str().chars().next()?.to_ascii_uppercase();
    (!abbreviated).then_some((letter, rest))
}

/// All letters of a text that commits itself to one of them; empty where it does not speak of letters.
fn mentioned(text: &str) -> BTreeSet<char> {
    let mut letters: BTreeSet<char> = SENTENCES
        .iter()
        .flat_map(|sentence| sentence.captures_iter(text))
        .filter_map(|found| letter_at(&text[found.get(1)?.start()..]))
        .collect();
    if !letters.is_empty() {
        let alone = ALONE.captures_iter(text);
        letters.extend(alone.filter_map(|found| found.get(1)?.as_str().chars().next()));
    }
    letters
}

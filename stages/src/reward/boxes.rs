//! Overlap of boxes in the arithmetic of the paper's public code.
//!
//! For boxes `[x1, y1, x2, y2]` it takes `max(x1, x1')` and `min(x2 - 1, x2' - 1)` as the sides of the
//! intersection (likewise in y), counts its width with `+ 1` and only where the left side lies strictly left
//! of the right one, and takes areas without `+ 1`. Reproduced here as it is, so that scores agree.

use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::RewardError;
use super::exact::is_python_space;

/// Settings of `iou`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Iou {
    /// The least overlap that counts as right, above 0 and at most 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub threshold: f64,
    /// How boxes may be written.
    #[serde(skip_serializing_if = "Notation::is_published")]
    pub notation: Notation,
}

impl Default for Iou {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            notation: Notation::Published,
        }
    }
}

/// How boxes may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Notation {
    /// As the paper's public code reads them: `[x1, y1, x2, y2]`.
    #[default]
    Published,
    /// Also `(x1, y1, x2, y2)`, `(x1,y1),(x2,y2)`, `[x1 y1 x2 y2]`, `[x1, y1], [x2, y2]`, box tokens, exponents.
    Any,
}

impl Notation {
    fn is_published(&self) -> bool {
        *self == Self::Published
    }
}

/// Four numbers in brackets. Digits and spaces are those of Unicode, as in Python; `\s` there also takes
/// U+001C to U+001F.
static BOX: LazyLock<Regex> = LazyLock::new(|| {
    let number = r"([\s\x1c-\x1f]*-?\d*\.?\d+[\s\x1c-\x1f]*)";
    let gap = r",[\s\x1c-\x1f]*";
    Regex::new(&format!(
        r"\[{number}{gap}{number}{gap}{number}{gap}{number}\]"
    ))
    .expect("a constant pattern")
});

/// Four numbers in the ways in which models write boxes: round or square brackets around all or around each corner,
/// commas or spaces between, a plus sign, an exponent, a point without digits behind it.
static ANY: LazyLock<Regex> = LazyLock::new(|| {
    let number = r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*";
    let gap = r"(?:,|\s)";
    let corner = r"[)\]]\s*,?\s*[(\[]";
    let four = format!("{number}{gap}{number}(?:{gap}|{corner}){number}{gap}{number}");
    Regex::new(&format!(r"[(\[]{four}[)\]]")).expect("a constant pattern")
});

static DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d$").expect("a constant pattern"));

/// Intersection over union of the first box in `completion` and the first in `answer`; 0 where `completion`
/// has none.
///
/// # Errors
/// [`RewardError::NoBox`] if the right answer has no box, [`RewardError::EmptyUnion`] where the reference
/// divides by zero.
pub fn iou(completion: &str, answer: &str) -> Result<f64, RewardError> {
    let right = parse(answer).ok_or_else(|| RewardError::NoBox(answer.to_owned()))?;
    let Some(found) = parse(completion) else {
        return Ok(0.0);
    };
    overlap(found, right)
        .ok_or_else(|| RewardError::EmptyUnion(completion.to_owned(), answer.to_owned()))
}

/// Whether the first box of `completion` overlaps the one of `answer` by at least the threshold.
pub(super) fn right(completion: &str, answer: &str, settings: &Iou) -> bool {
    let overlap = match settings.notation {
        Notation::Published => iou(completion, answer).ok(),
        Notation::Any => read(completion, Notation::Any)
            .zip(read(answer, Notation::Any))
            .and_then(|(found, right)| overlap(found, right)),
    };
    overlap.is_some_and(|overlap| overlap >= settings.threshold)
}

/// Whether some answer can be right: the box itself has to reach the threshold.
pub(super) fn check(answer: &str, settings: &Iou) -> Result<(), RewardError> {
    let sides =
        read(answer, settings.notation).ok_or_else(|| RewardError::NoBox(answer.to_owned()))?;
    let own = overlap(sides, sides).unwrap_or(0.0);
    if own >= settings.threshold {
        return Ok(());
    }
    Err(RewardError::UnmetBox {
        answer: answer.to_owned(),
        overlap: own,
        why: if sides.iter().all(|side| side.abs() <= 1.0) {
            "boxes count in pixels, and this one seems to be in shares of the image"
        } else if sides[0] > sides[2] || sides[1] > sides[3] {
            "its corners are swapped: write [left, top, right, bottom]"
        } else {
            "it is too thin: the sides of a box count from the first to the last pixel but one"
        },
    })
}

/// Whether the text has a box.
pub(super) fn has(text: &str, notation: Notation) -> bool {
    read(text, notation).is_some()
}

/// The first box.
fn read(text: &str, notation: Notation) -> Option<[f64; 4]> {
    let published = parse(text);
    if published.is_some() || notation == Notation::Published {
        return published;
    }
    let captures = ANY.captures(text)?;
    let mut sides = [0.0; 4];
    for (side, found) in sides.iter_mut().zip(captures.iter().skip(1)) {
        *side = found?.as_str().parse().ok()?;
    }
    sides
        .iter()
        .all(|side: &f64| side.is_finite())
        .then_some(sides)
}

fn overlap(a: [f64; 4], b: [f64; 4]) -> Option<f64> {
    let (left, top) = (f64::max(a[0], b[0]), f64::max(a[1], b[1]));
    let (right, bottom) = (
        f64::min(a[2] - 1.0, b[2] - 1.0),
        f64::min(a[3] - 1.0, b[3] - 1.0),
    );
    let inside = left < right && top < bottom;
    let inter = if inside {
        (right - left + 1.0) * (bottom - top + 1.0)
    } else {
        0.0
    };
    let area = |c: [f64; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let union = area(a) + area(b) - inter;
    (union != 0.0).then(|| inter / union)
}

fn parse(text: &str) -> Option<[f64; 4]> {
    let captures = BOX.captures(text)?;
    let mut sides = [0.0; 4];
    for (index, side) in sides.iter_mut().enumerate() {
        *side = number(captures.get(index + 1)?.as_str())?;
    }
    Some(sides)
}

/// Python's `float()` of a text that the pattern let through.
fn number(text: &str) -> Option<f64> {
    let ascii: Option<String> = text
        .trim_matches(is_python_space)
        .chars()
        .map(|c| {
            if c == '-' || c == '.' {
                Some(c)
            } else {
                char::from_digit(digit(c)?, 10)
            }
        })
        .collect();
    ascii?.parse().ok()
}

/// The value of a decimal digit of any script: Unicode lays them out in runs of ten from zero to nine.
fn digit(c: char) -> Option<u32> {
    if c.is_ascii_digit() {
        return c.to_digit(10);
    }
    let is_digit = |code: u32| {
        char::from_u32(code).is_some_and(|c| DIGIT.is_match(c.encode_utf8(&mut [0; 4])))
    };
    let code = u32::from(c);
    is_digit(code).then(|| (1..).take_while(|back| is_digit(code - back)).count() as u32 % 10)
}

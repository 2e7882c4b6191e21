//! The numbers in a text: exact values, and the places that look like numbers and are none.

use std::str::FromStr as _;
use std::sync::LazyLock;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One as _, Zero as _};
use regex::{Captures, Regex};

use super::scope::unstyled;

/// Longer numbers, and powers of ten beyond, are no answers.
const MOST_DIGITS: usize = 400;

/// A place that looks like a number.
#[derive(Debug)]
pub(super) struct Token {
    start: usize,
    end: usize,
    /// What it comes to; none where it is not plainly one number.
    pub(super) value: Option<BigRational>,
    /// As written, without its sign.
    written: String,
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a constant pattern")
}

/// Digits with whatever may belong to them.
static RUN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"-?(?:[0-9]|\.[0-9])(?:[0-9.,:/'_^]|-[0-9]|[eE][+-]?[0-9])*"));
static PLAIN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^([0-9]*|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,4}))?$")
});
static FRACTION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^([0-9]+(?:\.[0-9]+)?)/([0-9]+(?:\.[0-9]+)?)$"));
static POWER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^10\^([+-]?[0-9]{1,3})$"));
static PAIR: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^([0-9]+(?:\.[0-9]+)?)-([0-9]+(?:\.[0-9]+)?)$"));
static WHOLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[1-9][0-9]{0,2}$"));
static GROUP: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[0-9]{3}(?:[.][0-9]+)?$"));
static TIMES: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s*\*\s*$"));
static SCALE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[ -](?i:(thousand)|(million)|(billion)|(trillion))s?\b"));
/// What makes a number one factor of another: `2 pi`, `3 sqrt(2)`, `5 ± 1`.
static FACTOR: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^\s*(?:π|±|√|\\?pi\b|\\pm\b|\+/-|\\?sqrt\b)"));
static ROOT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?:±|√|\\pm|\+/-|\\?sqrt(?:\[[0-9]+\])?)\s*[({]?\s*$"));
static HEXADECIMAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[xX][0-9a-fA-F]+\b"));
static LATEX_FRACTION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"([0-9]?)\s*\\[dtc]?frac\s*\{\s*([0-9.]+)\s*\}\s*\{\s*([0-9.]+)\s*\}")
});
/// `2 x 10^3`.
static LETTER_TIMES: LazyLock<Regex> = LazyLock::new(|| pattern(r"([0-9]\s*)[xX](\s*10\^)"));
static LATEX_POWER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\^\{\s*([+-]?[0-9]+)\s*\}"));
/// Groups of thousands with a space that does not break the line.
static SPACED: LazyLock<Regex> =
    LazyLock::new(|| pattern("\\b[1-9][0-9]{0,2}(?:\u{a0}[0-9]{3})+\\b"));

/// All that looks like a number, in order.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let text = plain(text);
    let mut found: Vec<Token> = Vec::new();
    for run in RUN.find_iter(&text) {
        read(&text, run.start(), run.as_str(), &mut found);
    }
    found
}

/// One run of digits and signs, joined to the token before it where both are one number.
fn read(text: &str, start: usize, run: &str, found: &mut Vec<Token>) {
    let written = run.trim_end_matches(['.', ',', ':', '/', '\'', '_', '^']);
    let end = start + written.len();
    let (before, after) = (&text[..start], &text[end..]);
    let last = before.chars().next_back();
    let digits = written.trim_start_matches('-');
    let negative = digits.len() < written.len() && !last.is_some_and(ends_a_term);
    let start = end - digits.len() - usize::from(negative);
    if digits.len() == written.len() {
        if last.is_some_and(is_latin) || last == Some('_') {
            return;
        }
        if last == Some('^') {
            // `cm^2` is a unit; `(3)^2` is no number in itself.
            let base = before.trim_end_matches('^').chars().next_back();
            if base == Some(')') {
                found.push(token(start, end, digits, None));
            }
            return;
        }
    }
    if let Some(pair) = PAIR.captures(digits) {
        // `3-12` is two numbers.
        let first = end - pair[2].len();
        found.push(token(start, first - 1, &pair[1], value(&pair[1])));
        found.push(token(first, end, &pair[2], value(&pair[2])));
        return;
    }
    let mut value = value(digits);
    if FACTOR.is_match(after)
        || ROOT.is_match(before)
        || (digits == "0" && HEXADECIMAL.is_match(after))
    {
        value = None;
    }
    if let Some(scale) = SCALE.captures(after) {
        let zeros = (1..=4)
            .find(|&index| scale.get(index).is_some())
            .unwrap_or(0);
        value = value.map(|value| value * ten_to(3 * zeros as i32));
    }
    if negative {
        value = value.map(|value| -value);
    }
    let new = token(start, end, digits, value);
    match found.last().and_then(|before| join(text, before, &new)) {
        Some(joined) => {
            found.pop();
            found.push(joined);
        }
        None => found.push(new),
    }
}

/// Two tokens that are one number: `2 x 10^3`, `1 1/2`, or `1 234`, which may be one or two and so is none.
fn join(text: &str, before: &Token, new: &Token) -> Option<Token> {
    let between = text.get(before.end..new.start)?;
    let value = if TIMES.is_match(between) && POWER.is_match(&new.written) {
        before
            .value
            .clone()
            .zip(new.value.clone())
            .map(|(a, b)| a * b)
    } else if between == " " && WHOLE.is_match(&before.written) && FRACTION.is_match(&new.written) {
        let negative = before
            .value
            .as_ref()
            .is_some_and(|value| *value < BigRational::zero());
        let part = new
            .value
            .clone()
            .map(|part| if negative { -part } else { part });
        before.value.clone().zip(part).map(|(a, b)| a + b)
    } else if between == " " && WHOLE.is_match(&before.written) && GROUP.is_match(&new.written) {
        None
    } else {
        return None;
    };
    Some(token(before.start, new.end, "", value))
}

fn token(start: usize, end: usize, written: &str, value: Option<BigRational>) -> Token {
    Token {
        start,
        end,
        value,
        written: written.to_owned(),
    }
}

/// The value of digits without a sign.
fn value(digits: &str) -> Option<BigRational> {
    if digits.len() > MOST_DIGITS {
        return None;
    }
    if let Some(parts) = PLAIN.captures(digits) {
        let part = parts.get(2).map_or("", |part| part.as_str());
        let exponent = parts
            .get(3)
            .map_or(Ok(0), |text| text.as_str().parse::<i32>());
        let exponent = exponent
            .ok()
            .filter(|e| e.unsigned_abs() as usize <= MOST_DIGITS)?;
        let digits = format!("{}{part}", parts[1].replace(',', ""));
        return Some(
            BigRational::from(BigInt::from_str(&digits).ok()?)
                * ten_to(exponent - part.len() as i32),
        );
    }
    if let Some(parts) = FRACTION.captures(digits) {
        let below = value(&parts[2]).filter(|below| !below.is_zero())?;
        return Some(value(&parts[1])? / below);
    }
    let power = POWER.captures(digits)?[1].parse::<i32>().ok()?;
    (power.unsigned_abs() as usize <= MOST_DIGITS).then(|| ten_to(power))
}

fn ten_to(power: i32) -> BigRational {
    let ten = BigInt::from(10).pow(power.unsigned_abs());
    if power < 0 {
        BigRational::new(BigInt::one(), ten)
    } else {
        BigRational::from(ten)
    }
}

/// A minus sign after such a character is a dash.
fn ends_a_term(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, ')' | ']' | '}' | '%')
}

/// Digits right after such a letter are part of a name or a unit: `cm3`, `x2`. Scripts without spaces between words
/// (答案是3) are not meant.
fn is_latin(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '\u{c0}'..='\u{24f}' | '\u{370}'..='\u{3ff}')
}

/// The text with one way of writing for what has several: signs, digits, powers, fractions, LaTeX.
fn plain(text: &str) -> String {
    let text = unstyled(text)
        .replace("{,}", ",")
        .replace("\\%", "%")
        .replace("\\$", "$")
        .replace("\\times", "*")
        .replace("\\cdot", "*");
    let text = ["\\,", "\\;", "\\!", "\\ "]
        .iter()
        .fold(text, |text, gap| text.replace(gap, "\u{a0}"));
    let mut out = String::with_capacity(text.len());
    let mut raised = false;
    for c in text.chars() {
        let power = superscript(c);
        if let Some(digit) = power {
            if !raised {
                out.push('^');
            }
            out.push(digit);
        } else {
            character(c, &mut out);
        }
        raised = power.is_some();
    }
    let out = LATEX_POWER.replace_all(&out, "^$1");
    let out = LETTER_TIMES.replace_all(&out, "$1*$2");
    let out = LATEX_FRACTION.replace_all(&out, |parts: &Captures<'_>| {
        let gap = if parts[1].is_empty() { "" } else { " " };
        format!("{}{gap}{}/{}", &parts[1], &parts[2], &parts[3])
    });
    let out = SPACED.replace_all(&out, |group: &Captures<'_>| group[0].replace('\u{a0}', ""));
    out.replace('\u{a0}', " ")
}

fn character(c: char, out: &mut String) {
    match c {
        '\u{2212}' | '\u{2012}' | '\u{2013}' | '\u{fe63}' | '\u{ff0d}' => out.push('-'),
        '\u{2044}' | '\u{2215}' => out.push('/'),
        '\u{d7}' | '\u{b7}' | '\u{22c5}' => out.push('*'),
        '\u{202f}' | '\u{2009}' | '\u{2007}' => out.push('\u{a0}'),
        '\u{ff0e}' => out.push('.'),
        '\u{ff0c}' => out.push(','),
        '\u{ff10}'..='\u{ff19}' => out.extend(char::from_digit(c as u32 - 0xff10, 10)),
        '¼' => out.push_str(" 1/4"),
        '½' => out.push_str(" 1/2"),
        '¾' => out.push_str(" 3/4"),
        '⅓' => out.push_str(" 1/3"),
        '⅔' => out.push_str(" 2/3"),
        '⅕' => out.push_str(" 1/5"),
        '⅛' => out.push_str(" 1/8"),
        other => out.push(other),
    }
}

fn superscript(c: char) -> Option<char> {
    Some(match c {
        '⁰' => '0',
        '¹' => '1',
        '²' => '2',
        '³' => '3',
        '⁴'..='⁹' => char::from_digit(c as u32 - 0x2070, 10)?,
        '⁻' => '-',
        _ => return None,
    })
}

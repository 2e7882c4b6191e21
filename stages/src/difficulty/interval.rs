//! Intervals of pass rates, compared exactly: `c` of `n` answers are right, and no float decides.
//!
//! | text | means |
//! |---|---|
//! | `1`, `0.5`, `3/8` | the pass rate c/n is exactly that |
//! | `(0, 1)`, `[0.25, 0.75)` | the pass rate lies between; a round end is left out |
//! | `c = n`, `c <= 2`, `0 < c < n`, `c >= n - 1` | the count itself |

use std::borrow::Cow;
use std::cmp::Ordering;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of counts c of n, as written in a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    text: String,
    low: Option<End>,
    high: Option<End>,
}

/// One end of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    at: Value,
    included: bool,
}

/// A number that a count is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// A share of n, as a fraction.
    Rate { numerator: u64, denominator: u64 },
    /// A count.
    Count(u64),
    /// n less this many.
    AllBut(u64),
}

impl Value {
    /// How `c` of `n` compares with this value.
    fn compare(self, c: u64, n: u64) -> Ordering {
        match self {
            Self::Rate {
                numerator,
                denominator,
            } => (u128::from(c) * u128::from(denominator))
                .cmp(&(u128::from(numerator) * u128::from(n))),
            Self::Count(count) => c.cmp(&count),
            Self::AllBut(less) => (u128::from(c) + u128::from(less)).cmp(&u128::from(n)),
        }
    }
}

impl Interval {
    /// Reads an interval.
    ///
    /// # Errors
    /// Says what cannot be read and what can.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (low, high) = brackets(text).or_else(|| comparison(text)).or_else(|| point(text)).ok_or_else(|| {
            format!(
                "{text:?} is not an interval of pass rates; write a rate (`1`, `3/8`), a range (`(0, 1)`, \
                 `[0.25, 0.75)`, round ends left out) or a comparison of the count c of n (`0 < c < n`)"
            )
        })?;
        if low.zip(high).is_some_and(|(low, high)| crossed(low, high)) {
            return Err(format!(
                "{text:?} holds no pass rate: its first end lies above its second; write the smaller one first"
            ));
        }
        Ok(Self {
            text: text.to_owned(),
            low,
            high,
        })
    }

    /// Whether `c` right answers of `n` are in the interval.
    pub fn contains(&self, c: u64, n: u64) -> bool {
        let above = |end: End| match end.at.compare(c, n) {
            Ordering::Greater => true,
            Ordering::Equal => end.included,
            Ordering::Less => false,
        };
        let below = |end: End| match end.at.compare(c, n) {
            Ordering::Less => true,
            Ordering::Equal => end.included,
            Ordering::Greater => false,
        };
        self.low.is_none_or(above) && self.high.is_none_or(below)
    }

    /// The interval as written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Whether the first end lies above the second, whatever n is.
fn crossed(low: End, high: End) -> bool {
    match (low.at, high.at) {
        (
            Value::Rate {
                numerator: a,
                denominator: b,
            },
            Value::Rate {
                numerator: c,
                denominator: d,
            },
        ) => u128::from(a) * u128::from(d) > u128::from(c) * u128::from(b),
        (Value::Count(low), Value::Count(high)) => low > high,
        (Value::AllBut(low), Value::AllBut(high)) => low < high,
        _ => false,
    }
}

type Ends = (Option<End>, Option<End>);

/// `(a, b]` over rates.
fn brackets(text: &str) -> Option<Ends> {
    let low_included = match text.chars().next()? {
        '[' => true,
        '(' => false,
        _ => return None,
    };
    let high_included = match text.chars().next_back()? {
        ']' => true,
        ')' => false,
        _ => return None,
    };
    let (low, high) = text.get(1..text.len() - 1)?.split_once(',')?;
    let end = |text: &str, included| {
        Some(End {
            at: rate(text)?,
            included,
        })
    };
    Some((
        Some(end(low, low_included)?),
        Some(end(high, high_included)?),
    ))
}

/// One or two comparisons with `c` on one side.
fn comparison(text: &str) -> Option<Ends> {
    let mut parts = Vec::new();
    let mut signs = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '>', '=']) {
        parts.push(rest[..at].trim());
        let sign = ["<=", ">=", "==", "<", ">", "="]
            .into_iter()
            .find(|sign| rest[at..].starts_with(sign))?;
        signs.push(sign);
        rest = &rest[at + sign.len()..];
    }
    parts.push(rest.trim());
    match (parts.as_slice(), signs.as_slice()) {
        (["c", value], [sign]) => one_side(sign, count(value)?),
        ([value, "c"], [sign]) => one_side(mirrored(sign), count(value)?),
        ([low, "c", high], [first @ ("<" | "<="), second @ ("<" | "<=")]) => {
            let low = End {
                at: count(low)?,
                included: *first == "<=",
            };
            let high = End {
                at: count(high)?,
                included: *second == "<=",
            };
            Some((Some(low), Some(high)))
        }
        _ => None,
    }
}

fn one_side(sign: &str, at: Value) -> Option<Ends> {
    let end = |included| Some(End { at, included });
    match sign {
        "<" => Some((None, end(false))),
        "<=" => Some((None, end(true))),
        ">" => Some((end(false), None)),
        ">=" => Some((end(true), None)),
        "=" | "==" => Some((end(true), end(true))),
        _ => None,
    }
}

fn mirrored(sign: &str) -> &str {
    match sign {
        "<" => ">",
        "<=" => ">=",
        ">" => "<",
        ">=" => "<=",
        same => same,
    }
}

/// A single rate.
fn point(text: &str) -> Option<Ends> {
    let end = End {
        at: rate(text)?,
        included: true,
    };
    Some((Some(end), Some(end)))
}

/// A count: digits, `n`, or `n - 2`.
fn count(text: &str) -> Option<Value> {
    match text.strip_prefix('n') {
        Some("") => Some(Value::AllBut(0)),
        Some(rest) => Some(Value::AllBut(digits(
            rest.trim().strip_prefix('-')?.trim(),
        )?)),
        None => Some(Value::Count(digits(text)?)),
    }
}

/// A share between 0 and 1: a decimal or a fraction.
fn rate(text: &str) -> Option<Value> {
    let text = text.trim();
    let (numerator, denominator) = match text.split_once('/') {
        Some((over, under)) => (digits(over.trim())?, digits(under.trim())?),
        None => {
            let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
            let denominator = 10_u64.checked_pow(u32::try_from(decimals.len()).ok()?)?;
            let decimals = if decimals.is_empty() {
                0
            } else {
                digits(decimals)?
            };
            let whole = if whole.is_empty() && text.len() > 1 {
                0
            } else {
                digits(whole)?
            };
            (
                whole.checked_mul(denominator)?.checked_add(decimals)?,
                denominator,
            )
        }
    };
    (denominator > 0 && numerator <= denominator).then_some(Value::Rate {
        numerator,
        denominator,
    })
}

fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Number(serde_json::Number),
        }
        let text = match Form::deserialize(deserializer) {
            Ok(Form::Text(text)) => text,
            Ok(Form::Number(number)) => number.to_string(),
            Err(_) => {
                return Err(serde::de::Error::custom(
                    "an interval is a text such as \"(0, 1)\" or a number",
                ));
            }
        };
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> Cow<'static, str> {
        "Interval".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number"],
            "description": "Pass rates: `1`, `3/8`, `(0, 1)`, `[0.25, 0.75)`, or counts: `c = n`, `0 < c < n`.",
            "examples": ["1", "(0, 1)", "[0.25, 0.75)", "c <= 2", "0 < c < n"],
        })
    }
}

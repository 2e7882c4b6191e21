//! Numeric answers: one number, in the forms in which people write it.
//!
//! The last number of a text counts, as in chain-of-thought scoring. What looks like a number and is not plainly one (a
//! date, a time, a list without spaces, a decimal comma, a root) is never read by its last digits: where such a thing
//! stands last, the text has no number.

use std::str::FromStr as _;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed as _, Zero as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::RewardError;
use super::figures::{Token, tokens};
use super::scope::scope;

/// Settings of `numeric`. A number is right if it is within either of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tolerance {
    /// Largest absolute difference.
    #[schemars(range(min = 0.0))]
    pub tolerance: f64,
    /// Largest difference as a share of the right number: 0.05 is the relaxed accuracy of chart questions.
    #[schemars(range(min = 0.0))]
    pub relative: f64,
}

pub(super) fn right(completion: &str, answer: &str, tolerance: &Tolerance) -> bool {
    let (Some(found), Some(right)) = (last(completion), only(answer)) else {
        return false;
    };
    let allowed = decimal(tolerance.tolerance).max(decimal(tolerance.relative) * right.abs());
    (found - right).abs() <= allowed
}

pub(super) fn check(answer: &str) -> Result<(), RewardError> {
    match tokens(scope(answer)).as_slice() {
        [] => Err(RewardError::NoNumber(answer.to_owned())),
        [Token { value: Some(_), .. }] => Ok(()),
        [_] => Err(RewardError::UnclearNumber(answer.to_owned())),
        _ => Err(RewardError::SeveralNumbers(answer.to_owned())),
    }
}

/// Whether the text has a number that counts.
pub(super) fn has(text: &str) -> bool {
    last(text).is_some()
}

/// The last number.
fn last(text: &str) -> Option<BigRational> {
    tokens(scope(text)).pop()?.value
}

/// The number of a text that has only one.
fn only(text: &str) -> Option<BigRational> {
    match tokens(scope(text)).as_mut_slice() {
        [token] => token.value.take(),
        _ => None,
    }
}

/// A setting as the decimal number that was written: 0.1 is one tenth. `problems` refuses what is not finite.
fn decimal(value: f64) -> BigRational {
    let text = value.to_string();
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let digits = BigInt::from_str(&format!("{whole}{part}")).unwrap_or_else(|_| BigInt::zero());
    BigRational::new(digits, BigInt::from(10).pow(part.len() as u32))
}

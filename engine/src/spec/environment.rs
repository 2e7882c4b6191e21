//! `${env.NAME}` and `${env.NAME:-default}`: what a spec takes from the environment, read once when it is loaded.
//!
//! The value stands in the place of the text, as if it were written in the spec: it enters keys, plans and
//! explanations, and a worker never looks at the environment again.

use std::collections::BTreeMap;

use serde_json::Value;

use super::tree::{Data, Tree};
use super::yaml;

/// What a variable gives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// The value.
    pub(crate) value: Value,
    /// The same, letter for letter.
    pub(crate) text: String,
    /// It is the default: the variable is not set, or empty.
    pub(crate) default: bool,
}

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Not set, or empty, and the spec gives no default.
    Unset,
    /// Not UTF-8.
    NotText,
}

/// Whether `name` can name a variable of the environment.
pub(crate) fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Adds to `found` the variables that texts of `tree` name and that are set, with their values. What a spec no longer
/// says, because an override or another spec stands in its place, is not in its tree.
pub(crate) fn named_in(tree: &Tree, found: &mut BTreeMap<String, String>) {
    match &tree.data {
        Data::Scalar(Value::String(text)) => {
            let expressions = text.split("${").skip(1);
            let named = expressions.filter_map(|rest| rest.trim_start().strip_prefix("env."));
            for rest in named {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                let name = &rest[..end.unwrap_or(rest.len())];
                if let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
                    found.insert(name.to_owned(), value);
                }
            }
        }
        Data::Scalar(_) => {}
        Data::List(items) => items.iter().for_each(|item| named_in(item, found)),
        Data::Map(entries) => entries
            .iter()
            .for_each(|entry| named_in(&entry.value, found)),
    }
}

/// The value of the variable `name`; `default` where it is not set or empty. A number, `true` or `false` is read as
/// such; everything else is text.
///
/// # Errors
/// Why there is none.
pub(crate) fn read(name: &str, default: Option<&str>) -> Result<Found, Missing> {
    let set = match std::env::var(name) {
        Ok(text) => Some(text).filter(|text| !text.is_empty()),
        Err(std::env::VarError::NotPresent) => None,
        Err(std::env::VarError::NotUnicode(_)) => return Err(Missing::NotText),
    };
    let is_default = set.is_none();
    let text = set
        .or_else(|| default.map(str::to_owned))
        .ok_or(Missing::Unset)?;
    let value = match yaml::plain_scalar(&text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => Value::String(text.clone()),
    };
    Ok(Found {
        value,
        text,
        default: is_default,
    })
}

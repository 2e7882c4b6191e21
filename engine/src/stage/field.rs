//! The path of a field.

use std::fmt;
use std::ops::Deref;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// The path of a field inside `with:`: keys, and indices as decimal text, outermost first. Empty for all of `with:`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<String>);

impl FieldPath {
    /// The path of what is called `part` inside.
    #[must_use]
    pub fn child(&self, part: impl Into<String>) -> Self {
        let mut parts = self.0.clone();
        parts.push(part.into());
        Self(parts)
    }

    /// The path of what this is inside of; none for all of `with:`.
    pub fn parent(&self) -> Option<Self> {
        let (_, parts) = self.0.split_last()?;
        Some(Self(parts.to_vec()))
    }

    /// The field's value in `with`.
    pub fn find_mut<'v>(&self, with: &'v mut Value) -> Option<&'v mut Value> {
        self.0.iter().try_fold(with, |value, part| match value {
            Value::Object(fields) => fields.get_mut(part),
            Value::Array(items) => items.get_mut(part.parse::<usize>().ok()?),
            _ => None,
        })
    }
}

/// Dots between the parts.
impl From<&str> for FieldPath {
    fn from(dotted: &str) -> Self {
        let parts = dotted.split('.').filter(|part| !part.is_empty());
        Self(parts.map(str::to_owned).collect())
    }
}

impl From<&String> for FieldPath {
    fn from(dotted: &String) -> Self {
        Self::from(dotted.as_str())
    }
}

/// Keys, outermost first.
impl From<&[&str]> for FieldPath {
    fn from(parts: &[&str]) -> Self {
        Self(parts.iter().map(|part| (*part).to_owned()).collect())
    }
}

impl From<Vec<String>> for FieldPath {
    fn from(parts: Vec<String>) -> Self {
        Self(parts)
    }
}

impl Deref for FieldPath {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

/// `a.b.0`.
impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// As text, dots between the parts.
impl Serialize for FieldPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

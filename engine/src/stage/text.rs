//! A stage's params, kept as JSON text.
//!
//! A study has as many params as it has stages, and each is read a few times. Text is a tenth of the memory of the tree
//! that it is read into.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Params with defaults filled in. Shared by the stages that have the same; serialises as the JSON that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Params(Arc<str>);

impl Params {
    /// The params `value`.
    pub fn of(value: &Value) -> Self {
        Self(value.to_string().into())
    }

    /// The params as a tree.
    pub fn value(&self) -> Value {
        // The text was written from a tree.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// The params as a kind has them.
    ///
    /// # Errors
    /// If they are not those of the kind.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(&self.0)
    }
}

impl Default for Params {
    fn default() -> Self {
        Self("null".into())
    }
}

impl Serialize for Params {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // From text to whatever it is written to, without a tree between them.
        let mut text = serde_json::Deserializer::from_str(&self.0);
        serde_transcode::transcode(&mut text, serializer)
    }
}

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self::of(&value))
    }
}

//! The arithmetic of devices.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The arithmetic that a result depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Numerics {
    /// The tensor backend.
    pub backend: String,
    /// The element type.
    pub dtype: String,
}

/// `flex/f32`.
impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backend, self.dtype)
    }
}

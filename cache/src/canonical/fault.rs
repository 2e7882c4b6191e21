//! What keeps a value from having canonical bytes.

use std::fmt;

/// The deepest nesting of sequences and maps that has canonical bytes; it is what JSON parsers commonly accept.
pub const MAX_DEPTH: usize = 128;

/// A value has no canonical bytes: where in the value, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}: {fault}", if path.is_empty() { "value" } else { path })]
#[non_exhaustive]
pub struct CanonicalError {
    /// The path to the offending value, as in `with.lr[2]`; empty for the outermost value.
    pub path: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What keeps a value from having canonical bytes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// A float that is NaN or infinite.
    NotFinite(f64),
    /// A map key that is neither a string nor an integer, boolean, char or unit variant.
    BadKey(&'static str),
    /// Two entries of one map have this key.
    DuplicateKey(String),
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// The value's own `Serialize` gave up.
    Custom(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotFinite(value) => {
                write!(f, "{value} cannot be part of a key; use a finite number")
            }
            Fault::BadKey(found) => write!(f, "{found} cannot be a map key; use a string"),
            Fault::DuplicateKey(key) => write!(f, "the key `{key}` occurs twice"),
            Fault::TooDeep => write!(f, "nested deeper than {MAX_DEPTH} levels"),
            Fault::Custom(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::Custom(message.to_string())
    }
}

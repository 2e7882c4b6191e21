//! Canonical bytes: the one way in which a value becomes the preimage of a digest.
//!
//! | value | bytes |
//! |---|---|
//! | null, unit, `None` | `00` |
//! | false, true | `01`, `02` |
//! | integer >= 0 | `03`, magnitude as 16 bytes |
//! | integer < 0 | `04`, magnitude as 16 bytes |
//! | float | `05`, the 8 bytes of its IEEE 754 bits |
//! | string, char | `06`, length in bytes, UTF-8 |
//! | sequence, tuple, bytes | `07`, number of items, the items |
//! | map, struct | `08`, number of entries, then per entry its key (length, UTF-8) and its value, sorted by key bytes |
//!
//! Lengths and counts are 8 bytes; all numbers are big-endian. Every value begins with its type and is framed by its
//! length, so no two distinct values share bytes and a value can be read back from them.
//!
//! # The law
//! For every `v` that has a place here, `to_bytes(&v) == to_bytes(&serde_json::to_value(&v))`. So a key that was
//! computed from typed params can be computed again from the JSON that explains it. From this follows how the rest
//! of serde's model is written: enums externally tagged, newtypes as what they hold, `serialize_bytes` as a sequence
//! of integers, integer and boolean map keys as their text.
//!
//! # Numbers
//! - An integer has one form: `1u8` and `1i64` are equal. The integer 1 and the float 1.0 are different values.
//! - `-0.0` is written as `0.0`. NaN and the infinities are refused: NaN has many bit patterns, and none of them has
//!   a JSON form.
//! - An `f32` is widened exactly, so `0.1f32` is not `0.1f64`: it is a different number.

mod encode;
mod keys;

use std::fmt;

use serde::Serialize;

use crate::Digest;
use encode::Encoder;

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

/// The canonical bytes of `value`.
///
/// # Errors
/// [`CanonicalError`] with the path to a non-finite float, a map key that is not a string, a key that occurs twice,
/// or too deep a nesting.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    let mut encoder = Encoder::default();
    match value.serialize(&mut encoder) {
        Ok(()) => Ok(encoder.out),
        // An error ends the walk at once, so the encoder's path still points at the culprit.
        Err(fault) => Err(CanonicalError {
            path: encoder.path_text(),
            fault,
        }),
    }
}

/// The digest of `value`'s canonical bytes: BLAKE3 in derive-key mode with `domain` as its context.
///
/// A domain names what is digested and its version, as in `dcsft stage key v1`. Digests of different domains never
/// meet. `b3sum --derive-key DOMAIN` over the canonical bytes prints the same digest.
///
/// # Errors
/// As [`to_bytes`].
pub fn digest<T: Serialize + ?Sized>(domain: &str, value: &T) -> Result<Digest, CanonicalError> {
    Ok(Digest::in_domain(domain, &to_bytes(value)?))
}

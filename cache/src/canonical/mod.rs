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
mod fault;
mod keys;

use serde::Serialize;

use crate::Digest;
use encode::Encoder;

pub use fault::{CanonicalError, Fault, MAX_DEPTH};

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

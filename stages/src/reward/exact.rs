//! Equality after the normalisation of the paper's public code: `s.strip().strip('.').lower()` in Python.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization as _, is_nfc};

/// The text in Unicode's composed form (NFC), in which tokenizers write: `é` is one character.
pub fn compose(text: &str) -> Cow<'_, str> {
    if is_nfc(text) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

/// Surrounding white space away, then surrounding full stops, then lower case.
pub fn normalise(text: &str) -> String {
    python_strip(text).trim_matches('.').to_lowercase()
}

/// Python's `str.strip()`: Unicode white space and the separators U+001C to U+001F, which Rust's `trim` keeps.
pub fn python_strip(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

/// Python's `str.isspace()` for one character.
pub(super) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

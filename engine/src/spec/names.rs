//! Names in a spec, and texts that hold expressions.

use crate::diagnostic::{Diagnostic, Span};

/// Whether `text` can name a stage, an axis or a var: a letter or `_`, then letters, digits, `_` and `-`.
pub(crate) fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(is_name_char)
}

/// Whether `text` can name a variable of a program's: a letter or `_`, then letters, digits and `_`.
pub(crate) fn is_variable(text: &str) -> bool {
    is_name(text) && !text.contains('-')
}

/// Whether `c` can stand in a name.
pub(crate) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// The mistake of a name that is none.
pub(crate) fn bad_name(span: Span, what: &str, name: &str) -> Diagnostic {
    Diagnostic::error(
        span,
        format!(
            "`{name}` cannot name {} {what}",
            if what == "axis" { "an" } else { "a" }
        ),
    )
    .note("a name is a letter or `_`, then letters, digits, `_` and `-`")
}

/// Whether a text has something to fill in.
pub(crate) fn is_template(text: &str) -> bool {
    text.contains("${")
}

//! A mistake in a field of `with:`.

use crate::stage::FieldPath;

/// A mistake in a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The field.
    pub(crate) path: FieldPath,
    /// The key is wrong rather than its value.
    pub(crate) on_key: bool,
    /// What is wrong.
    pub(crate) message: String,
    /// What is allowed.
    pub(crate) note: Option<String>,
    /// What to do.
    pub(crate) help: Option<String>,
    /// The field that is missing, if one is.
    pub(super) lacks: Option<String>,
}

impl Problem {
    pub(super) fn new(path: impl Into<FieldPath>, message: String) -> Self {
        Self {
            path: path.into(),
            on_key: false,
            message,
            note: None,
            help: None,
            lacks: None,
        }
    }

    /// Whether the mistake is that `field` is not there.
    pub(crate) fn is_lack_of(&self, field: &str) -> bool {
        self.lacks.as_deref() == Some(field)
    }
}

/// `a.b[0]`.
pub(super) fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if part.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            text = format!("{text}[{part}]");
        } else {
            text = if text.is_empty() {
                part.clone()
            } else {
                format!("{text}.{part}")
            };
        }
    }
    text
}

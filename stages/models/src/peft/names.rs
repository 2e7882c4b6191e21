//! Names of modules, as PEFT's settings and specs give them.

use std::fmt;

use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::ModuleNames;
use fancy_regex::Regex;
use serde_json::Value;

use crate::fields::is_off;

/// Names of modules: a pattern for whole names, or endings.
pub(crate) enum Names {
    Pattern(Regex),
    List(Vec<String>),
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(regex) => write!(f, "the pattern {:?}", regex.as_str()),
            Self::List(list) => write!(f, "the list {list:?}"),
        }
    }
}

impl Names {
    /// Those of a spec.
    ///
    /// # Errors
    /// A pattern that cannot be read.
    pub(crate) fn of(names: &ModuleNames) -> Result<Self, String> {
        match names {
            ModuleNames::Pattern(pattern) => {
                compile("lora.target_modules", pattern, &format!("^(?:{pattern})$"))
                    .map(Self::Pattern)
            }
            ModuleNames::Ends(list) => Ok(Self::List(list.clone())),
        }
    }

    pub(super) fn read(field: &str, value: Option<Value>) -> Result<Option<Self>, String> {
        match value {
            Some(Value::String(pattern)) if !pattern.is_empty() => {
                // Python's `fullmatch`.
                compile(field, &pattern, &format!("^(?:{pattern})$"))
                    .map(|regex| Some(Self::Pattern(regex)))
            }
            Some(value) if is_off(&value) => Ok(None),
            other => {
                let list = texts(field, other)?;
                Ok((!list.is_empty()).then_some(Self::List(list)))
            }
        }
    }

    /// Whether a module of this name is meant.
    ///
    /// # Errors
    /// [`VlmError::Config`] for a pattern that takes too long.
    pub(crate) fn matches(&self, module: &str) -> Result<bool, VlmError> {
        match self {
            Self::Pattern(regex) => is_match(regex, module),
            Self::List(list) => Ok(list.iter().any(|name| {
                module == name
                    || module
                        .strip_suffix(name.as_str())
                        .is_some_and(|before| before.ends_with('.'))
            })),
        }
    }
}

/// A pattern of the field `field`, which `whole` makes one for whole names.
pub(super) fn compile(field: &str, pattern: &str, whole: &str) -> Result<Regex, String> {
    Regex::new(whole)
        .map_err(|error| format!("`{field}`: the pattern {pattern:?} cannot be read: {error}"))
}

pub(super) fn is_match(regex: &Regex, module: &str) -> Result<bool, VlmError> {
    regex.is_match(module).map_err(|error| {
        VlmError::Config(format!(
            "the pattern {:?} cannot be applied: {error}",
            regex.as_str()
        ))
    })
}

/// A list of texts.
pub(super) fn texts(field: &str, value: Option<Value>) -> Result<Vec<String>, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match value {
        None => Some(Vec::new()),
        Some(value) if is_off(&value) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(text).collect::<Option<_>>(),
        Some(_) => None,
    }
    .ok_or_else(|| format!("`{field}` must be a text or a list of texts"))
}

//! The texts that a study was read from.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What stands for a path where an override is written down.
const OVERRIDE: &str = "--set";

/// A text that a study was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A spec, or one that it extends.
    File {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// An override, as given.
    Override {
        /// `PATH=VALUE`.
        text: String,
    },
}

impl Source {
    /// What it says.
    pub fn text(&self) -> &str {
        match self {
            Self::File { text, .. } | Self::Override { text } => text,
        }
    }
}

/// Its name: the file's path, or `--set`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Override { .. } => f.write_str(OVERRIDE),
        }
    }
}

/// As (name, text), which is how journals hold it.
impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File { path, text } => (path, text).serialize(serializer),
            Self::Override { text } => (OVERRIDE, text).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (path, text) = <(PathBuf, String)>::deserialize(deserializer)?;
        Ok(if path.as_os_str() == OVERRIDE {
            Self::Override { text }
        } else {
            Self::File { path, text }
        })
    }
}

//! What several test files share.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file of the golden set, or none where there is no set on this machine.
pub(crate) fn golden(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("DCSFT_GOLDEN")
        .map(PathBuf::from)
        .or_else(|| shared("golden"));
    found(folder?.join(path))
}

/// A file below the shared data folder, or none where there is no such folder on this machine.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("DCSFT_SHARED") else {
        eprintln!("skipped: neither DCSFT_GOLDEN nor DCSFT_SHARED names the folder with {path}");
        return None;
    };
    found(Path::new(&folder).join(path))
}

fn found(path: PathBuf) -> Option<PathBuf> {
    if !path.exists() {
        eprintln!("skipped: {} does not exist", path.display());
        return None;
    }
    Some(path)
}

/// A whole JSON file.
pub(crate) fn read_json(path: &Path) -> Value {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

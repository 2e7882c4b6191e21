//! The processor's files in a checkpoint's folder, kept as they were read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcsft_vlm::error::VlmError;
use serde_json::Value;

/// Every file that a Qwen2.5-VL checkpoint keeps its tokenizer, template or image settings in.
const NAMES: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];

/// The files that are there, by name.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: PathBuf,
    bytes: BTreeMap<&'static str, Arc<[u8]>>,
}

impl Files {
    pub(super) fn load(dir: &Path) -> Result<Self, VlmError> {
        let mut bytes = BTreeMap::new();
        for name in NAMES {
            let path = dir.join(name);
            match std::fs::read(&path) {
                Ok(read) => {
                    bytes.insert(name, read.into());
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(VlmError::Io { path, source }),
            }
        }
        let dir = dir.to_owned();
        Ok(Self { dir, bytes })
    }

    /// Writes the bytes that were read.
    pub(super) fn save(&self, dir: &Path) -> Result<(), VlmError> {
        for (name, bytes) in &self.bytes {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(|source| VlmError::Io { path, source })?;
        }
        Ok(())
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.bytes.get(name).map(AsRef::as_ref)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, VlmError> {
        let fail = |_| VlmError::Config(format!("{}: is not UTF-8", self.path(name).display()));
        self.get(name)
            .map(std::str::from_utf8)
            .transpose()
            .map_err(fail)
    }

    pub(super) fn json(&self, name: &str) -> Result<Option<Value>, VlmError> {
        let fail =
            |error| VlmError::Config(format!("{}: no JSON: {error}", self.path(name).display()));
        self.get(name)
            .map(serde_json::from_slice)
            .transpose()
            .map_err(fail)
    }
}

//! The processor's files in a checkpoint's folder, kept as they were read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcsft_vlm::error::VlmError;
use serde_json::Value;

use crate::folder::{self, SETTINGS_BYTES, TEMPLATE_BYTES, VOCABULARY_BYTES, is_there};

/// Every file that a checkpoint keeps its tokenizer, template or image settings in, and the most bytes that are
/// read of it.
const NAMES: [(&str, u64); 11] = [
    ("tokenizer.json", VOCABULARY_BYTES),
    ("tokenizer_config.json", SETTINGS_BYTES),
    ("vocab.json", VOCABULARY_BYTES),
    ("merges.txt", VOCABULARY_BYTES),
    ("added_tokens.json", SETTINGS_BYTES),
    ("special_tokens_map.json", SETTINGS_BYTES),
    ("chat_template.jinja", TEMPLATE_BYTES),
    ("chat_template.json", SETTINGS_BYTES),
    ("preprocessor_config.json", SETTINGS_BYTES),
    ("processor_config.json", SETTINGS_BYTES),
    ("video_preprocessor_config.json", SETTINGS_BYTES),
];

/// The files that are there, by name.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
    bytes: BTreeMap<&'static str, Arc<[u8]>>,
}

impl Files {
    pub(crate) fn load(dir: &Path) -> Result<Self, VlmError> {
        Self::load_those(dir, |_| true)
    }

    /// All but the vocabulary, which is large.
    pub(crate) fn load_settings(dir: &Path) -> Result<Self, VlmError> {
        Self::load_those(dir, |most| most < VOCABULARY_BYTES)
    }

    fn load_those(dir: &Path, wanted: impl Fn(u64) -> bool) -> Result<Self, VlmError> {
        let mut bytes = BTreeMap::new();
        for (name, most) in NAMES.into_iter().filter(|(_, most)| wanted(*most)) {
            let path = dir.join(name);
            if is_there(&path) {
                bytes.insert(name, folder::read(&path, most)?.into());
            }
        }
        let dir = dir.to_owned();
        Ok(Self { dir, bytes })
    }

    /// Writes the bytes that were read, into new files.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), VlmError> {
        for (name, bytes) in &self.bytes {
            folder::write(&dir.join(name), bytes)?;
        }
        Ok(())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.bytes.get(name).map(AsRef::as_ref)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, VlmError> {
        let fail = |_| VlmError::Config(format!("{}: is not UTF-8", self.path(name).display()));
        self.get(name)
            .map(std::str::from_utf8)
            .transpose()
            .map_err(fail)
    }

    pub(crate) fn json(&self, name: &str) -> Result<Option<Value>, VlmError> {
        let fail =
            |error| VlmError::Config(format!("{}: no JSON: {error}", self.path(name).display()));
        self.get(name)
            .map(serde_json::from_slice)
            .transpose()
            .map_err(fail)
    }
}

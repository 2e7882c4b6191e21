//! The families, by the `model_type` of a checkpoint's `config.json`.

use std::path::Path;
use std::sync::Arc;

use dcsft_vlm::error::VlmError;
use serde_json::Value;

use crate::family::{Family, Kind};
use crate::folder::{self, CONFIG, SETTINGS_BYTES};
use crate::modules::{Declared, Layers};
use crate::processor::Processor;
use crate::settings::Settings;

/// All families in Hugging Face's layout.
pub const FAMILIES: [&Kind; 3] = [
    &crate::qwen2_5_vl::KIND,
    &crate::qwen3_vl::KIND,
    &crate::smolvlm::KIND,
];

/// A configuration that was read.
#[derive(Clone)]
pub struct Config {
    /// Which family it is of.
    pub kind: &'static Kind,
    /// The family's own view of it.
    pub family: Arc<dyn Family>,
    /// The layers that it describes.
    pub layers: Arc<Layers>,
    /// The file as it was read, to be written back on export.
    pub raw: Value,
}

impl Config {
    /// Reads the text and image side of the checkpoint in the folder `dir`, under the limits that `settings` gives images.
    ///
    /// # Errors
    /// As [`Processor::load`] and [`Processor::with_pixels`].
    pub fn processor(&self, dir: &Path, settings: &Settings) -> Result<Processor, VlmError> {
        Processor::load(dir, &*self.family)?.with_pixels(settings.min_pixels, settings.max_pixels)
    }

    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    /// [`VlmError::Io`] where it cannot be read, else as [`Config::from_json`].
    pub fn load(dir: &Path) -> Result<Self, VlmError> {
        let path = dir.join(CONFIG);
        let bytes = folder::read(&path, SETTINGS_BYTES)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| VlmError::Config(format!("{}: is not UTF-8", path.display())))?;
        Self::from_json(&path, &text)
    }

    /// The configuration that `text` holds; `path` names it in errors.
    ///
    /// # Errors
    /// [`VlmError::Config`]: no JSON, a family that is not built, a field that is missing or of the wrong kind, sizes that
    /// do not fit together, a variant that is not built, a field that nothing is known of.
    pub fn from_json(path: &Path, text: &str) -> Result<Self, VlmError> {
        let fail = |problem: String| VlmError::Config(format!("{}: {problem}", path.display()));
        let raw: Value =
            serde_json::from_str(text).map_err(|error| fail(format!("no JSON: {error}")))?;
        let top = raw
            .as_object()
            .ok_or_else(|| fail("must be a JSON object".into()))?;
        let kind = kind_of(top.get("model_type")).map_err(fail)?;
        check_architecture(kind, top.get("architectures")).map_err(fail)?;
        let mut layers = Layers::default();
        let family = (kind.read)(top, &mut layers).map_err(fail)?;
        Ok(Self {
            kind,
            family: family.into(),
            layers: layers.into(),
            raw,
        })
    }

    /// Numbers in all weights.
    pub fn parameters(&self) -> usize {
        self.layers.weights.iter().map(Declared::numbers).sum()
    }
}

/// The family that specs call so.
pub fn by_name(name: &str) -> Option<&'static Kind> {
    FAMILIES.into_iter().find(|kind| kind.name == name)
}

fn kind_of(model_type: Option<&Value>) -> Result<&'static Kind, String> {
    let known = || {
        let names = FAMILIES.map(|kind| kind.name);
        match names.split_last() {
            Some((last, [])) => format!("only {last}"),
            Some((last, first)) => format!("only {} and {last}", first.join(", ")),
            None => "none".into(),
        }
    };
    let Some(name) = model_type.and_then(Value::as_str) else {
        return Err(format!("`model_type` is missing; {} can be read", known()));
    };
    let mut kinds = FAMILIES.into_iter();
    kinds
        .find(|kind| kind.name == name || kind.aliases.contains(&name))
        .ok_or_else(|| format!("is a `{name}` checkpoint, and {} can be read", known()))
}

fn check_architecture(kind: &Kind, names: Option<&Value>) -> Result<(), String> {
    let names = names.and_then(Value::as_array).into_iter().flatten();
    let names: Vec<&str> = names.filter_map(Value::as_str).collect();
    let known = names.iter().any(|name| kind.architectures.contains(name));
    if names.is_empty() || known {
        return Ok(());
    }
    Err(format!(
        "`architectures` is {}, and only {} can be read",
        names.join(", "),
        kind.architectures.join(" and ")
    ))
}

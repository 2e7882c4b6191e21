//! Models: a Hugging Face folder with the adapters merged, or the adapters alone as PEFT keeps them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use dcsft_models::{HubModel, SETTINGS, is_micro};
use dcsft_tensor::device::DeviceSpec;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::VisionLanguageModel as _;
use serde_json::Value;

use super::ExportError;
use super::copy::{copy, copy_all};

const ADAPTER: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// The model in `from` with its adapters merged. Without adapters, and for a micro model, that is a copy; what Hugging
/// Face's layout does not know is left out.
pub(super) fn write_merged(from: &Path, to: &Path) -> Result<(), ExportError> {
    if is_micro(from)? {
        return copy_all(from, to, &[]);
    }
    if !from.join(ADAPTER[0]).exists() {
        return copy_all(from, to, &[SETTINGS]);
    }
    let device = DeviceSpec::Cpu
        .open()
        .map_err(|error| VlmError::Config(error.to_string()))?;
    // Adapters that were trained beside quantised weights are added to the weights as the checkpoint has them.
    let mut model = HubModel::load_whole(from, &device)?;
    model.merge_lora()?;
    model.save(to)?;
    let settings = to.join(SETTINGS);
    std::fs::remove_file(&settings).map_err(ExportError::io(&settings))?;
    open_up(to)
}

/// Gives all files of a folder the permissions of the one that was written as any other program would: some were
/// copied from the cache, which is read-only, some moved from a private scratch file.
fn open_up(dir: &Path) -> Result<(), ExportError> {
    let usual = dir.join("config.json");
    let metadata = std::fs::metadata(&usual).map_err(ExportError::io(&usual))?;
    for entry in std::fs::read_dir(dir).map_err(ExportError::io(dir))? {
        let path = entry.map_err(ExportError::io(dir))?.path();
        std::fs::set_permissions(&path, metadata.permissions()).map_err(ExportError::io(&path))?;
    }
    Ok(())
}

/// The adapters of the model in `from`, and the name of the model that they belong to.
pub(super) fn write_adapter(from: &Path, to: &Path, base: Option<&str>) -> Result<(), ExportError> {
    if !from.join(ADAPTER[0]).exists() {
        return Err(ExportError::NoAdapter);
    }
    copy(&from.join(ADAPTER[1]), &to.join(ADAPTER[1]))?;
    let (source, target) = (from.join(ADAPTER[0]), to.join(ADAPTER[0]));
    match base {
        Some(base) => write_named(&source, &target, base),
        None => copy(&source, &target),
    }
}

/// Copies the configuration with what PEFT loads the adapters onto where it is not given a model.
fn write_named(source: &Path, target: &Path, base: &str) -> Result<(), ExportError> {
    let text = std::fs::read_to_string(source).map_err(ExportError::io(source))?;
    let table = |error: serde_json::Error| ExportError::Table {
        path: source.to_owned(),
        problem: error.to_string(),
    };
    let mut config: BTreeMap<String, Value> = serde_json::from_str(&text).map_err(table)?;
    config.insert("base_model_name_or_path".into(), base.into());
    let text = serde_json::to_string_pretty(&config).map_err(table)? + "\n";
    File::create_new(target)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(ExportError::io(target))
}

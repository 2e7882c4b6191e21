//! The model of a folder, of whichever family it is.

use std::path::Path;

use burn::tensor::Device;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::VisionLanguageModel;
use serde_json::Value;

use crate::folder::{self, CONFIG};
use crate::micro::{self, MicroVlm};
use crate::model::HubModel;

/// The model in a folder, of whichever family it is, with its adapters, on `device`.
///
/// # Errors
/// [`VlmError`] with the file and what is wrong with it.
pub fn open(dir: &Path, device: &Device) -> Result<Box<dyn VisionLanguageModel>, VlmError> {
    Ok(match is_micro(dir)? {
        true => Box::new(MicroVlm::load(dir, device)?),
        false => Box::new(HubModel::load(dir, device)?),
    })
}

/// Whether the model in `dir` is a micro VLM, which has a layout of its own.
///
/// # Errors
/// Where `config.json` cannot be read.
pub fn is_micro(dir: &Path) -> Result<bool, VlmError> {
    let config: Value = folder::read_json(&dir.join(CONFIG))?;
    Ok(config["model_type"] == micro::MODEL_TYPE)
}

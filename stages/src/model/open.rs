//! Opening the model that another stage wrote.

use std::path::Path;

use dcsft_engine::context::StageContext;
use dcsft_engine::kind::StageError;
use dcsft_models::qwen2_5_vl::QwenVl;
use dcsft_vlm::device::DeviceSpec;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::micro::{self, MicroVlm};
use dcsft_vlm::model::VisionLanguageModel;
use serde::Deserialize;

/// The model at the input `model`, with its adapters, on the stage's device.
///
/// # Errors
/// Names the file that does not fit, or says what the device lacks.
pub(crate) fn open(ctx: &StageContext) -> Result<Box<dyn VisionLanguageModel>, StageError> {
    let device = device(ctx)?.open().map_err(StageError::failed)?;
    let dir = &ctx.input("model")?.dir;
    Ok(if is_micro(dir).map_err(StageError::failed)? {
        Box::new(MicroVlm::load(dir, &device).map_err(StageError::failed)?)
    } else {
        Box::new(QwenVl::load(dir, &device).map_err(StageError::failed)?)
    })
}

/// Whether the model in `dir` is a micro VLM; everything else is left to the Qwen2.5-VL loader, which says what it
/// takes.
///
/// # Errors
/// Where `config.json` cannot be read.
pub(crate) fn is_micro(dir: &Path) -> Result<bool, VlmError> {
    #[derive(Deserialize)]
    struct Config {
        model_type: Option<String>,
    }
    let path = dir.join("config.json");
    let text = std::fs::read(&path).map_err(|source| VlmError::Io {
        path: path.clone(),
        source,
    })?;
    let config: Config = serde_json::from_slice(&text).map_err(|error| VlmError::Weights {
        path,
        problem: error.to_string(),
    })?;
    Ok(config.model_type.as_deref() == Some(micro::MODEL_TYPE))
}

/// The device that the stage was given.
pub(crate) fn device(ctx: &StageContext) -> Result<DeviceSpec, StageError> {
    ctx.device().parse().map_err(StageError::failed)
}

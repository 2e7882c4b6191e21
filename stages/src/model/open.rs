//! Opening the model that another stage wrote.

use dcsft_engine::stage::{StageContext, StageError};
use dcsft_tensor::device::DeviceSpec;
use dcsft_vlm::model::VisionLanguageModel;

/// The model at the input `model`, with its adapters, on the stage's device.
///
/// # Errors
/// Names the file that does not fit, or says what the device lacks.
pub(crate) fn open(ctx: &StageContext) -> Result<Box<dyn VisionLanguageModel>, StageError> {
    let device = device(ctx)?.open().map_err(StageError::failed)?;
    dcsft_models::open(&ctx.input("model")?.dir, &device).map_err(StageError::failed)
}

/// The device that the stage was given.
pub(crate) fn device(ctx: &StageContext) -> Result<DeviceSpec, StageError> {
    ctx.device().parse().map_err(StageError::failed)
}

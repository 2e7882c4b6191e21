//! Opening the model that another stage wrote.

use dcsft_engine::stage::{StageContext, StageError};
use dcsft_tensor::device::{Device, DeviceSpec};
use dcsft_vlm::model::VisionLanguageModel;

/// The model at the input `model`, with its adapters, on the stage's device.
///
/// # Errors
/// Names the file that does not fit, or says what the device lacks.
pub(crate) fn open(ctx: &StageContext) -> Result<Box<dyn VisionLanguageModel>, StageError> {
    let device = device(ctx)?.open().map_err(StageError::failed)?;
    dcsft_models::open(&ctx.input("model")?.dir, &device).map_err(StageError::failed)
}

/// The devices that the stage was given beside its first. Where a batch system hands them out, those that it lets the
/// process see.
///
/// # Errors
/// Says what is missing.
pub(crate) fn further_devices(ctx: &StageContext) -> Result<Vec<Device>, StageError> {
    let own = ctx.accelerators().get(1..).unwrap_or_default();
    let seen = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let devices: Vec<DeviceSpec> = match device(ctx)? {
        DeviceSpec::Cuda(0) if ctx.accelerators().is_empty() => {
            let seen = seen.split(',').filter(|name| !name.trim().is_empty());
            (1..seen.count()).map(DeviceSpec::Cuda).collect()
        }
        _ => {
            let named = own.iter().map(|name| name.parse());
            named
                .collect::<Result<_, _>>()
                .map_err(StageError::failed)?
        }
    };
    let opened = devices.into_iter().map(DeviceSpec::open);
    opened.collect::<Result<_, _>>().map_err(StageError::failed)
}

/// The device that the stage was given.
pub(crate) fn device(ctx: &StageContext) -> Result<DeviceSpec, StageError> {
    ctx.device().parse().map_err(StageError::failed)
}

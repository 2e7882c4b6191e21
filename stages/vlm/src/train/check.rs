//! Checks of settings that both trainers have.

use crate::lora::untrained;
use crate::model::{NO_CHECKPOINTING, VisionLanguageModel};
use crate::train::adamw::AdamWSettings;
use crate::train::error::TrainError;

/// `value` is a number of at least 0.
pub(crate) fn not_negative(field: &'static str, value: f64) -> Result<(), TrainError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(TrainError::config(
        field,
        value,
        "it must be a number of at least 0",
    ))
}

/// `gradient_checkpointing` is asked of a model that has it.
pub(crate) fn checkpointing(
    asked: bool,
    model: &dyn VisionLanguageModel,
) -> Result<(), TrainError> {
    match asked && !model.can_checkpoint() {
        false => Ok(()),
        true => Err(TrainError::config(
            "gradient_checkpointing",
            asked,
            NO_CHECKPOINTING,
        )),
    }
}

/// A quantised model has adapters to train.
pub(crate) fn trains(model: &dyn VisionLanguageModel) -> Result<(), TrainError> {
    match model.is_quantised() && !model.params().iter().any(|param| param.trainable) {
        false => Ok(()),
        true => Err(TrainError::Model(untrained())),
    }
}

/// `value` lies in `[0, 1]`.
pub(crate) fn fraction(field: &'static str, value: f64) -> Result<(), TrainError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(TrainError::config(
        field,
        value,
        "it must be between 0 and 1",
    ))
}

/// `value` is at least 1.
pub(crate) fn positive(field: &'static str, value: usize) -> Result<(), TrainError> {
    if value > 0 {
        Ok(())
    } else {
        Err(TrainError::config(field, value, "it must be at least 1"))
    }
}

/// A run's length: `steps` or `epochs`, not both.
pub(crate) fn length(steps: Option<usize>, epochs: Option<f64>) -> Result<(), TrainError> {
    match (steps, epochs) {
        (Some(steps), Some(_)) => Err(TrainError::config(
            "steps",
            steps,
            "`epochs` is given too; give one of them",
        )),
        (None, Some(epochs)) if !(epochs.is_finite() && epochs > 0.0) => Err(TrainError::config(
            "epochs",
            epochs,
            "it must be a number above 0",
        )),
        _ => positive("steps", steps.unwrap_or(1)),
    }
}

/// The optimiser's settings.
pub(crate) fn adamw(settings: &AdamWSettings) -> Result<(), TrainError> {
    for beta in settings.betas {
        if !(0.0..1.0).contains(&beta) {
            return Err(TrainError::config(
                "betas",
                beta,
                "both must be at least 0 and below 1",
            ));
        }
    }
    not_negative("eps", settings.eps)?;
    not_negative("weight_decay", settings.weight_decay)?;
    not_negative("max_grad_norm", settings.max_grad_norm)
}

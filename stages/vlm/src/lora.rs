//! Low-rank adapters (LoRA, Hu et al. 2021).

use std::collections::BTreeSet;

use dcsft_tensor::params::{Param, ParamSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::VlmError;

/// A group of a model's linear layers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ModuleGroup {
    /// The image encoder; in the micro model with its patch embedding.
    Vision,
    /// The layer between encoder and decoder.
    Projector,
    /// The text decoder without embeddings and output head.
    Decoder,
}

/// Adapters on the linear layers of some module groups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Inner width of an adapter.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// The adapter's output is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Probability with which an adapter's input is dropped in training.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub dropout: f64,
    /// The groups whose layers get adapters.
    pub targets: BTreeSet<ModuleGroup>,
    /// Which layers of these groups get adapters, as PEFT's `target_modules`: a pattern of whole names, or a list of
    /// names' ends. Without it all of them do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<ModuleNames>,
}

/// Names of modules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ModuleNames {
    /// A regular expression for whole names, as Python's `re.fullmatch` takes it.
    Pattern(String),
    /// Names, or what stands at their end after a full stop.
    Ends(Vec<String>),
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.05,
            targets: [
                ModuleGroup::Vision,
                ModuleGroup::Projector,
                ModuleGroup::Decoder,
            ]
            .into(),
            target_modules: None,
        }
    }
}

impl LoraConfig {
    /// Factor of the adapter's output.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`VlmError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), VlmError> {
        if self.rank == 0 {
            return Err(VlmError::Config("lora.rank must be at least 1".into()));
        }
        if !self.alpha.is_finite() {
            return Err(VlmError::Config(format!(
                "lora.alpha must be a finite number, not {}",
                self.alpha
            )));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(VlmError::Config(format!(
                "lora.dropout must be at least 0 and below 1, not {}",
                self.dropout
            )));
        }
        if self.targets.is_empty() {
            return Err(VlmError::Config(
                "lora.targets must name at least one of vision, projector, decoder".into(),
            ));
        }
        Ok(())
    }
}

/// That quantised weights are not trained.
pub fn untrained() -> VlmError {
    VlmError::Config(
        "the model's weights are quantised, and such weights are not trained: write `lora:` to train adapters beside \
         them, or leave `quantize` out where the model is made"
            .into(),
    )
}

/// Takes the weights of some groups out of training; `group` says which one a weight belongs to.
///
/// # Errors
/// [`VlmError::Config`] where nothing would be left to train, or with adapters, which freeze all other weights already.
pub fn freeze(
    params: &mut ParamSet,
    lora: Option<&LoraConfig>,
    groups: &BTreeSet<ModuleGroup>,
    group: impl Fn(&Param) -> ModuleGroup,
) -> Result<(), VlmError> {
    if groups.is_empty() {
        return Ok(());
    }
    if lora.is_some() {
        return Err(VlmError::Config(
            "freeze goes with training of all weights; with adapters lora.targets says which layers get some".into(),
        ));
    }
    for param in params.iter_mut() {
        if groups.contains(&group(param)) {
            param.set_trainable(false);
        }
    }
    match params.iter().any(|param| param.trainable) {
        true => Ok(()),
        false => Err(nothing_left()),
    }
}

/// That all groups are frozen.
pub fn nothing_left() -> VlmError {
    VlmError::Config(
        "freeze leaves no weight to train; leave out one of vision, projector, decoder".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::LoraConfig;

    #[test]
    fn impossible_settings_are_named() {
        let error = |config: LoraConfig| config.validate().unwrap_err().to_string();
        assert!(
            error(LoraConfig {
                rank: 0,
                ..Default::default()
            })
            .contains("lora.rank")
        );
        assert!(
            error(LoraConfig {
                dropout: 1.0,
                ..Default::default()
            })
            .contains("lora.dropout")
        );
        assert!(
            error(LoraConfig {
                targets: [].into(),
                ..Default::default()
            })
            .contains("lora.targets")
        );
    }
}

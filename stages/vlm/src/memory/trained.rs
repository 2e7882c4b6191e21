//! What of a model is trained.

use super::step::Linear;
use crate::lora::{LoraConfig, ModuleGroup};

/// What of a model is trained, and how.
#[derive(Clone, Copy, Debug)]
pub struct Training<'a> {
    /// Adapters; without them all weights.
    pub lora: Option<&'a LoraConfig>,
    /// Dropout is drawn for the adapters' inputs.
    pub dropout: bool,
}

/// What of a model's layers is trained.
#[derive(Clone, Copy, Debug)]
pub struct Trained<'a>(pub Option<Training<'a>>);

impl<'a> Trained<'a> {
    /// A linear layer of a group on `rows` rows, with `sizes` inputs and outputs.
    pub fn linear(self, group: ModuleGroup, rows: f64, sizes: [f64; 2], bias: bool) -> Linear<'a> {
        Linear {
            rows,
            sizes,
            bias,
            trained: self.whole(),
            adapter: self.adapter(group),
        }
    }

    /// `values` where all weights are trained, else none.
    pub fn of(self, values: f64) -> f64 {
        if self.whole() { values } else { 0.0 }
    }

    fn whole(self) -> bool {
        self.0.is_some_and(|training| training.lora.is_none())
    }

    fn adapter(self, group: ModuleGroup) -> Option<(&'a LoraConfig, bool)> {
        let training = self.0?;
        let lora = training.lora.filter(|lora| lora.targets.contains(&group))?;
        Some((lora, training.dropout && lora.dropout > 0.0))
    }
}

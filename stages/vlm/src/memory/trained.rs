//! What of a model is trained.

use std::collections::BTreeSet;

use super::step::Linear;
use crate::lora::{LoraConfig, ModuleGroup};

/// What of a model is trained, and how.
#[derive(Clone, Copy, Debug)]
pub struct Training<'a> {
    /// Adapters; without them all weights that are not frozen.
    pub lora: Option<&'a LoraConfig>,
    /// Dropout is drawn for the adapters' inputs.
    pub dropout: bool,
    /// Groups whose weights stay as they are.
    pub frozen: &'a BTreeSet<ModuleGroup>,
}

impl Training<'static> {
    /// All weights.
    pub const WHOLE: Self = Self {
        lora: None,
        dropout: false,
        frozen: &BTreeSet::new(),
    };
}

impl<'a> Training<'a> {
    /// Adapters alone, without dropout.
    pub fn adapters(lora: &'a LoraConfig) -> Self {
        Self {
            lora: Some(lora),
            ..Training::WHOLE
        }
    }

    /// The weights of a group themselves are trained.
    pub fn is_whole(&self, group: ModuleGroup) -> bool {
        self.lora.is_none() && !self.frozen.contains(&group)
    }
}

/// What of a model's layers is trained; none for a pass that keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct Trained<'a>(pub Option<Training<'a>>);

impl<'a> Trained<'a> {
    /// A linear layer of a group on `rows` rows, with `sizes` inputs and outputs.
    pub fn linear(self, group: ModuleGroup, rows: f64, sizes: [f64; 2], bias: bool) -> Linear<'a> {
        Linear {
            rows,
            sizes,
            bias,
            trained: self.is_whole(group),
            adapter: self.adapter(group),
            dequantised: 0.0,
        }
    }

    /// `values` of a group where its weights are trained, else none.
    pub fn of(self, group: ModuleGroup, values: f64) -> f64 {
        if self.is_whole(group) { values } else { 0.0 }
    }

    fn is_whole(self, group: ModuleGroup) -> bool {
        self.0.is_some_and(|training| training.is_whole(group))
    }

    fn adapter(self, group: ModuleGroup) -> Option<(&'a LoraConfig, bool)> {
        let training = self.0?;
        let lora = training.lora.filter(|lora| lora.targets.contains(&group))?;
        Some((lora, training.dropout && lora.dropout > 0.0))
    }
}

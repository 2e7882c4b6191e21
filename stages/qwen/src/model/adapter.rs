//! Adapters in PEFT's format.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::DType;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::{read_json, write_json};
use super::modules::tensor;
use super::{QwenVl, lora};
use crate::checkpoint::{Checkpoint, Layout, weights};
use crate::export::{self, Stored};
use crate::names::{self, PEFT_PREFIX};

/// PEFT's configuration.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// PEFT's weights.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// What is written: the fields that PEFT needs to load a plain LoRA adapter.
#[derive(Serialize)]
struct Written<'a> {
    peft_type: &'a str,
    task_type: &'a str,
    base_model_name_or_path: &'a str,
    r: usize,
    lora_alpha: f64,
    lora_dropout: f64,
    bias: &'a str,
    fan_in_fan_out: bool,
    inference_mode: bool,
    target_modules: BTreeSet<&'a str>,
}

/// What is read, with the fields whose unusual values would change what the adapter computes.
#[derive(Deserialize)]
struct Read {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    rank_pattern: Option<Value>,
    #[serde(default)]
    alpha_pattern: Option<Value>,
    #[serde(default)]
    modules_to_save: Option<Value>,
}

impl Read {
    /// The first setting that cannot be computed here.
    fn unsupported(&self) -> Option<String> {
        let filled = |value: &Option<Value>| match value {
            None | Some(Value::Null) => false,
            Some(Value::Object(map)) => !map.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        let bias = self.bias.as_deref().unwrap_or("none");
        [
            (
                self.peft_type != "LORA",
                format!("peft_type {:?}", self.peft_type),
            ),
            (bias != "none", format!("bias {bias:?}")),
            (self.use_rslora, "use_rslora".into()),
            (self.use_dora, "use_dora".into()),
            (self.fan_in_fan_out, "fan_in_fan_out".into()),
            (filled(&self.rank_pattern), "rank_pattern".into()),
            (filled(&self.alpha_pattern), "alpha_pattern".into()),
            (filled(&self.modules_to_save), "modules_to_save".into()),
        ]
        .into_iter()
        .find_map(|(wrong, name)| wrong.then_some(name))
    }
}

/// Writes the model's adapters, if it has any, into `dir`.
pub(super) fn save(model: &QwenVl, dir: &Path) -> Result<(), VlmError> {
    let Some(lora) = &model.lora else {
        return Ok(());
    };
    let mut modules = model.modules.clone();
    let mut names = Vec::new();
    for (_, layer) in modules.adaptable() {
        if layer.adapter.is_some() {
            names.push(layer.name.clone());
        }
    }
    let config = Written {
        peft_type: "LORA",
        task_type: "CAUSAL_LM",
        base_model_name_or_path: "",
        r: lora.rank,
        lora_alpha: lora.alpha,
        lora_dropout: lora.dropout,
        bias: "none",
        fan_in_fan_out: false,
        inference_mode: true,
        target_modules: names.iter().map(String::as_str).collect(),
    };
    write_json(&dir.join(CONFIG), &config)?;
    let stored: Vec<Stored> = model
        .params
        .iter()
        .filter(|param| lora::is_adapter(param))
        .map(|param| Stored {
            name: format!("{PEFT_PREFIX}{}", param.name),
            param,
            layout: Layout::Linear,
            shape: None,
            dtype: DType::F32,
        })
        .collect();
    export::write_file(&dir.join(WEIGHTS), stored)
}

/// Puts the adapters of a PEFT folder on the model.
///
/// # Errors
/// [`VlmError::Weights`] for a setting that is not plain LoRA, or tensors that do not fit the model's layers.
pub fn load(model: &mut QwenVl, dir: &Path) -> Result<(), VlmError> {
    let path = dir.join(CONFIG);
    let read: Read = read_json(&path)?;
    if let Some(setting) = read.unsupported() {
        return Err(weights(
            &path,
            format!("{setting}: only plain LoRA adapters can be read"),
        ));
    }
    let file = dir.join(WEIGHTS);
    let mut checkpoint = Checkpoint::of_files(&file, vec![file.clone()])?;
    let adapted: BTreeSet<String> = checkpoint
        .names()
        .filter_map(|name| Some(names::module_of(module(name)?)))
        .collect();
    let mut groups: BTreeSet<ModuleGroup> = BTreeSet::new();
    for (group, layer) in model.modules.adaptable() {
        if adapted.contains(&layer.name) {
            groups.insert(group);
        }
    }
    let config = LoraConfig {
        rank: read.r,
        alpha: read.lora_alpha,
        dropout: read.lora_dropout,
        targets: groups,
    };
    lora::add_to(model, &config, 0, |name| adapted.contains(name))
        .map_err(|error| weights(&path, error.to_string()))?;
    // Names in the file may be of the older layout below PEFT's prefix.
    let in_file: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    let QwenVl { params, device, .. } = model;
    for param in params.iter_mut().filter(|param| lora::is_adapter(param)) {
        let name = in_file
            .iter()
            .find(|name| {
                name.strip_prefix(PEFT_PREFIX)
                    .map(names::module_of)
                    .as_deref()
                    == Some(&param.name)
            })
            .cloned()
            .unwrap_or_else(|| format!("{PEFT_PREFIX}{}", param.name));
        let shape = param.value.dims();
        let values = checkpoint.take(&name, shape, Layout::Linear)?;
        param.value = tensor(values, shape, device, DType::F32).require_grad();
    }
    checkpoint.finish()
}

/// The module that a tensor of an adapter's file belongs to.
fn module(name: &str) -> Option<&str> {
    let name = name.strip_prefix(PEFT_PREFIX)?;
    name.strip_suffix(".lora_A.weight")
        .or_else(|| name.strip_suffix(".lora_B.weight"))
}

//! A model's folder: `config.json`, `tokenizer.json`, `model.safetensors` and, if it has adapters,
//! `adapter_config.json` and `adapter_model.safetensors` as PEFT names them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_tensor::params::{Param, ParamSet};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::VisionLanguageModel as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::tokenizer::WordCharTokenizer;
use super::weights::{Layout, Matrix, Weights, read_file, write, write_file};
use super::{MicroConfig, MicroVlm};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const MODEL: &str = "model.safetensors";
const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER: &str = "adapter_model.safetensors";
/// PEFT's name of the wrapped model.
const PEFT_PREFIX: &str = "base_model.model.";
/// `model_type` in the `config.json` of a micro VLM.
pub const MODEL_TYPE: &str = "dcsft_micro_vlm";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    model_type: String,
    sizes: MicroConfig,
}

/// The part of PEFT's configuration that this model uses.
#[derive(Serialize, Deserialize)]
struct AdapterFile {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    lora_dropout: f64,
    bias: String,
    fan_in_fan_out: bool,
    target_modules: BTreeSet<String>,
}

pub(super) fn save(model: &MicroVlm, dir: &Path) -> Result<(), VlmError> {
    std::fs::create_dir_all(dir).map_err(|source| VlmError::Io {
        path: dir.to_owned(),
        source,
    })?;
    let config = ConfigFile {
        model_type: MODEL_TYPE.into(),
        sizes: model.config.clone(),
    };
    write_json(&dir.join(CONFIG), &config)?;
    write_json(&dir.join(TOKENIZER), &model.tokenizer)?;
    let mut base = BTreeMap::new();
    let mut adapters = BTreeMap::new();
    for param in model.params.iter() {
        let tensor = (Matrix::from_tensor(&param.value)?, layout(param));
        if is_adapter(param) {
            adapters.insert(format!("{PEFT_PREFIX}{}", param.name), tensor);
        } else {
            base.insert(param.name.clone(), tensor);
        }
    }
    write(&dir.join(MODEL), &base)?;
    if let Some(lora) = &model.lora {
        let mut modules = model.modules.clone();
        let adapted = modules
            .adaptable()
            .into_iter()
            .filter(|(_, layer)| layer.adapter.is_some());
        let file = AdapterFile {
            peft_type: "LORA".into(),
            r: lora.rank,
            lora_alpha: lora.alpha,
            lora_dropout: lora.dropout,
            bias: "none".into(),
            fan_in_fan_out: false,
            target_modules: adapted.map(|(_, layer)| layer.name.clone()).collect(),
        };
        write_json(&dir.join(ADAPTER_CONFIG), &file)?;
        write(&dir.join(ADAPTER), &adapters)?;
    }
    Ok(())
}

impl MicroVlm {
    /// Reads a model that `save` wrote, with its adapters if it has any.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, VlmError> {
        load(dir, device)
    }
}

fn load(dir: &Path, device: &Device) -> Result<MicroVlm, VlmError> {
    let path = dir.join(CONFIG);
    let config: ConfigFile = read_json(&path)?;
    if config.model_type != MODEL_TYPE {
        return Err(VlmError::Weights {
            path,
            problem: format!(
                "model_type is {:?}, and only {MODEL_TYPE:?} can be read",
                config.model_type
            ),
        });
    }
    let mut model = MicroVlm::new(config.sizes, 0, device)?;
    let path = dir.join(TOKENIZER);
    let tokenizer: WordCharTokenizer = read_json(&path)?;
    if tokenizer != model.tokenizer {
        return Err(VlmError::Weights {
            path,
            problem: format!("its vocabulary is not that of {CONFIG}"),
        });
    }
    read_params(&mut model.params, &dir.join(MODEL), device, "", |param| {
        !is_adapter(param)
    })?;
    if dir.join(ADAPTER_CONFIG).exists() {
        load_adapter(&mut model, dir, device)?;
    }
    Ok(model)
}

fn load_adapter(model: &mut MicroVlm, dir: &Path, device: &Device) -> Result<(), VlmError> {
    let path = dir.join(ADAPTER_CONFIG);
    let file: AdapterFile = read_json(&path)?;
    let groups = model.modules.adaptable().into_iter();
    let named = groups.filter(|(_, layer)| file.target_modules.contains(&layer.name));
    let lora = LoraConfig {
        rank: file.r,
        alpha: file.lora_alpha,
        dropout: file.lora_dropout,
        targets: named.map(|(group, _)| group).collect(),
        target_modules: None,
    };
    model
        .add_lora(&lora, 0)
        .map_err(|error| VlmError::Weights {
            path,
            problem: error.to_string(),
        })?;
    read_params(
        &mut model.params,
        &dir.join(ADAPTER),
        device,
        PEFT_PREFIX,
        is_adapter,
    )
}

/// Fills the params that `which` picks from a file that holds these and no others.
fn read_params(
    params: &mut ParamSet,
    path: &Path,
    device: &Device,
    prefix: &str,
    which: impl Fn(&Param) -> bool,
) -> Result<(), VlmError> {
    let mut weights = Weights::read(path)?;
    for param in params.iter_mut().filter(|param| which(param)) {
        let name = format!("{prefix}{}", param.name);
        let matrix = weights.take(&name, param.value.dims(), layout(param))?;
        param.value = Tensor::from_data(TensorData::new(matrix.values, matrix.shape), device);
        param.set_trainable(param.trainable);
    }
    weights.finish()
}

fn is_adapter(param: &Param) -> bool {
    param.name.ends_with(".lora_A.weight") || param.name.ends_with(".lora_B.weight")
}

fn layout(param: &Param) -> Layout {
    if !param.decay {
        Layout::Vector
    } else if param.name.ends_with("positions.weight") || param.name.ends_with("embedding.weight") {
        Layout::Plain
    } else {
        Layout::Linear
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), VlmError> {
    let problem = |error: serde_json::Error| VlmError::Weights {
        path: path.to_owned(),
        problem: error.to_string(),
    };
    let mut text = serde_json::to_string_pretty(value).map_err(problem)?;
    text.push('\n');
    write_file(path, text.as_bytes())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, VlmError> {
    serde_json::from_slice(&read_file(path)?).map_err(|error| VlmError::Weights {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

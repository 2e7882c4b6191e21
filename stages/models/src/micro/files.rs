//! A model's folder: `config.json`, `tokenizer.json`, `model.safetensors` and, if it has adapters,
//! `adapter_config.json` and `adapter_model.safetensors` as PEFT names them.

use std::fs;
use std::path::Path;

use burn::tensor::{DType, Device};
use dcsft_vlm::error::VlmError;
use serde::{Deserialize, Serialize};

use super::tokenizer::WordCharTokenizer;
use super::{MicroConfig, MicroVlm};
use crate::adapter;
use crate::checkpoint::{Checkpoint, SINGLE};
use crate::folder::{CONFIG, fault, io, read_json, write_json};
use crate::modules::Source;
use crate::names::Names;
use crate::stored::{Dialect, Stored, write_file};

const TOKENIZER: &str = "tokenizer.json";
/// `model_type` in the `config.json` of a micro VLM.
pub const MODEL_TYPE: &str = "dcsft_micro_vlm";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    model_type: String,
    sizes: MicroConfig,
}

pub(super) fn save(model: &MicroVlm, dir: &Path) -> Result<(), VlmError> {
    fs::create_dir_all(dir).map_err(io(dir))?;
    let config = ConfigFile {
        model_type: MODEL_TYPE.into(),
        sizes: model.config.clone(),
    };
    write_json(&dir.join(CONFIG), &config)?;
    write_json(&dir.join(TOKENIZER), &model.tokenizer)?;
    // Weights come in the order in which they were declared, and adapters after them.
    let declared = model.layers.weights.iter().zip(model.weights.params.iter());
    let stored = declared.map(|(weight, param)| Stored {
        name: weight.name.clone(),
        param,
        layout: weight.layout,
        shape: None,
        dtype: DType::F32,
    });
    write_file(&dir.join(SINGLE), stored.collect(), Dialect::Own)?;
    adapter::save(&model.layers, &model.weights, Dialect::Own, dir)
}

impl MicroVlm {
    /// Reads a model that `save` wrote, with its adapters if it has any.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, VlmError> {
        let path = dir.join(CONFIG);
        let config: ConfigFile = read_json(&path)?;
        if config.model_type != MODEL_TYPE {
            let found = &config.model_type;
            let problem = format!("model_type is {found:?}, and only {MODEL_TYPE:?} can be read");
            return Err(fault(&path, problem));
        }
        let weights = dir.join(SINGLE);
        let mut checkpoint = Checkpoint::of_files(&weights, vec![weights.clone()], Names::SAME)?;
        let mut model = Self::build(config.sizes, Source::Checkpoint(&mut checkpoint), device)?;
        checkpoint.finish()?;
        let path = dir.join(TOKENIZER);
        let tokenizer: WordCharTokenizer = read_json(&path)?;
        if tokenizer != model.tokenizer {
            let problem = format!("its vocabulary is not that of {CONFIG}");
            return Err(fault(&path, problem));
        }
        if adapter::is_in(dir)? {
            let Self {
                layers,
                weights,
                device,
                ..
            } = &mut model;
            adapter::load(layers, weights, Names::SAME, device, dir)?;
        }
        Ok(model)
    }
}

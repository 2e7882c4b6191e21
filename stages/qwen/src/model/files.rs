//! A model's folder: a checkpoint in Hugging Face's layout, `dcsft.json` with the settings it runs under, and, if it has
//! adapters, `adapter_config.json` and `adapter_model.safetensors` in PEFT's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Device};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::Tokenizer as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::modules::{Source, build};
use super::{QwenVl, adapter};
use crate::checkpoint::{Checkpoint, INDEX, SINGLE, io, weights};
use crate::config::{self, QwenConfig};
use crate::export::{self, MAX_SHARD_BYTES};
use crate::processor::Processor;

/// The settings a model runs under, beside its checkpoint.
pub const SETTINGS: &str = "dcsft.json";
const GENERATION: &str = "generation_config.json";

/// Number type of weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of 32: half the memory, for GPUs. Adapters, losses and optimiser states stay in 32 bits.
    Bf16,
}

impl Precision {
    /// The tensors' type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// What a model runs under that its checkpoint does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Number type.
    pub precision: Precision,
    /// Least area of an image in pixels, in the place of the checkpoint's.
    pub min_pixels: Option<usize>,
    /// Largest area of an image in pixels, in the place of the checkpoint's.
    pub max_pixels: Option<usize>,
    /// Longest sequence in tokens, prompt, image and answer together.
    pub max_tokens: Option<usize>,
}

/// Where a model was read from.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    /// The weights without adapters are still those of the folder.
    pub(super) unchanged: bool,
}

impl QwenVl {
    /// Reads a model's folder, with adapters if it has any.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, VlmError> {
        let path = dir.join(SETTINGS);
        let settings: Settings = match path.exists() {
            true => read_json(&path)?,
            false => Settings::default(),
        };
        let mut checkpoint = Checkpoint::open(dir)?;
        let mut model = Self::build(dir, settings, Source::Checkpoint(&mut checkpoint), device)?;
        checkpoint.finish()?;
        if dir.join(adapter::CONFIG).exists() {
            adapter::load(&mut model, dir)?;
        }
        Ok(model)
    }

    /// A model with random weights in the shape that the folder's `config.json` describes; tokenizer and processor files
    /// are the folder's.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub fn random(
        dir: &Path,
        settings: Settings,
        seed: u64,
        device: &Device,
    ) -> Result<Self, VlmError> {
        let source = Source::Random { seed, std: 0.02 };
        let mut model = Self::build(dir, settings, source, device)?;
        model.files.unchanged = false;
        Ok(model)
    }

    fn build(
        dir: &Path,
        settings: Settings,
        source: Source<'_>,
        device: &Device,
    ) -> Result<Self, VlmError> {
        let config = QwenConfig::load(dir)?;
        let processor =
            Processor::load(dir, &config)?.with_pixels(settings.min_pixels, settings.max_pixels)?;
        let dtype = settings.precision.dtype();
        let (modules, params) = build(&config, source, device, dtype)?;
        Ok(Self {
            stops: stops(dir, processor.tokenizer().eos())?,
            config,
            processor: Arc::new(processor),
            modules,
            params,
            lora: None,
            max_tokens: settings.max_tokens,
            files: ModelFiles {
                dir: dir.to_owned(),
                settings,
                unchanged: true,
            },
            device: device.clone().autodiff(),
            dtype,
        })
    }
}

/// Takes a checkpoint's folder over into `to`, with the settings it is to run under. Every file is checked first: the
/// weights' names and shapes, the tokenizer, the template.
///
/// # Errors
/// [`VlmError`] with the file and what is wrong with it.
pub fn import(from: &Path, to: &Path, settings: Settings) -> Result<Imported, VlmError> {
    let config = QwenConfig::load(from)?;
    let processor =
        Processor::load(from, &config)?.with_pixels(settings.min_pixels, settings.max_pixels)?;
    let parameters = export::check(Checkpoint::open(from)?, &config)?;
    processor.save(to)?;
    copy(from, to, config::FILE)?;
    if from.join(GENERATION).exists() {
        copy(from, to, GENERATION)?;
    }
    for name in weight_files(from)? {
        copy(from, to, &name)?;
    }
    for name in [adapter::CONFIG, adapter::WEIGHTS] {
        if from.join(name).exists() {
            copy(from, to, name)?;
        }
    }
    write_json(&to.join(SETTINGS), &settings)?;
    Ok(Imported { config, parameters })
}

/// What was imported.
pub struct Imported {
    /// Its configuration.
    pub config: QwenConfig,
    /// How many numbers its weights hold.
    pub parameters: usize,
}

/// Writes the model's folder. A base that nobody trained is linked or copied from where it was read.
pub(super) fn save(model: &QwenVl, dir: &Path) -> Result<(), VlmError> {
    fs::create_dir_all(dir).map_err(io(dir))?;
    let ModelFiles {
        dir: from,
        settings,
        unchanged,
    } = &model.files;
    write_json(&dir.join(SETTINGS), settings)?;
    model.processor.save(dir)?;
    if from.join(GENERATION).exists() {
        copy(from, dir, GENERATION)?;
    }
    if *unchanged {
        copy(from, dir, config::FILE)?;
        for name in weight_files(from)? {
            if fs::hard_link(from.join(&name), dir.join(&name)).is_err() {
                copy(from, dir, &name)?;
            }
        }
    } else {
        write_json(
            &dir.join(config::FILE),
            &config_for(&model.config.raw, settings.precision),
        )?;
        export::write_weights(model, dir, settings.precision, MAX_SHARD_BYTES)?;
    }
    adapter::save(model, dir)
}

/// A configuration that says which number type its weights have.
pub(crate) fn config_for(raw: &Value, precision: Precision) -> Value {
    let mut config = raw.clone();
    let name = match precision {
        Precision::F32 => "float32",
        Precision::Bf16 => "bfloat16",
    };
    if let Some(object) = config.as_object_mut() {
        let key = if object.contains_key("torch_dtype") {
            "torch_dtype"
        } else {
            "dtype"
        };
        object.insert(key.to_owned(), name.into());
    }
    config
}

/// The files with a checkpoint's weights, the index included.
pub(crate) fn weight_files(dir: &Path) -> Result<BTreeSet<String>, VlmError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = dir.join(INDEX);
    if !index.exists() {
        return Ok([SINGLE.to_owned()].into());
    }
    let Index { weight_map } = read_json(&index)?;
    Ok(weight_map.into_values().chain([INDEX.to_owned()]).collect())
}

/// The tokens that end an answer: those of `generation_config.json`, and the tokenizer's own.
fn stops(dir: &Path, eos: u32) -> Result<Vec<u32>, VlmError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Tokens {
        One(u32),
        Several(Vec<u32>),
    }
    #[derive(Deserialize)]
    struct Generation {
        eos_token_id: Option<Tokens>,
    }
    let path = dir.join(GENERATION);
    let mut stops = vec![eos];
    if path.exists() {
        match read_json::<Generation>(&path)?.eos_token_id {
            Some(Tokens::One(token)) => stops.push(token),
            Some(Tokens::Several(tokens)) => stops.extend(tokens),
            None => {}
        }
    }
    stops.sort_unstable();
    stops.dedup();
    Ok(stops)
}

/// Copies a file's bytes, not its permissions: a file of a cache is read-only, its copy need not be.
fn copy(from: &Path, to: &Path, name: &str) -> Result<(), VlmError> {
    let (source, target) = (from.join(name), to.join(name));
    let mut bytes = fs::File::open(&source).map_err(io(&source))?;
    let mut file = fs::File::create(&target).map_err(io(&target))?;
    std::io::copy(&mut bytes, &mut file)
        .map(drop)
        .map_err(io(&source))
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), VlmError> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|error| weights(path, error.to_string()))?;
    text.push('\n');
    fs::write(path, text).map_err(io(path))
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, VlmError> {
    let text = fs::read(path).map_err(io(path))?;
    serde_json::from_slice(&text).map_err(|error| weights(path, error.to_string()))
}

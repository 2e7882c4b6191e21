//! A model's folder: a checkpoint in Hugging Face's layout, `dcsft.json` with the settings it runs under, and, if it has
//! adapters, `adapter_config.json` and `adapter_model.safetensors` in PEFT's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Device};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::Tokenizer as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::generation::{self, Generation};
use super::modules::{Source, build};
use super::{QwenVl, adapter};
use crate::checkpoint::{Checkpoint, weight_files};
use crate::export::{self, MAX_SHARD_BYTES};
use crate::folder::{copy, fault, io, is_there, read_json, write_json};
use crate::processor::Processor;
use crate::qwen2_5_vl::config::{self, QwenConfig};

/// The settings a model runs under, beside its checkpoint.
pub const SETTINGS: &str = "dcsft.json";

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
        if adapter::is_in(dir)? {
            adapter::load(&mut model, dir)?;
        }
        Ok(model)
    }

    /// A model with random weights in the shape that the folder's `config.json` describes, as wide as its
    /// `initializer_range` says; tokenizer and processor files are the folder's.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub fn random(
        dir: &Path,
        settings: Settings,
        seed: u64,
        device: &Device,
    ) -> Result<Self, VlmError> {
        let std = QwenConfig::load(dir)?.initializer_range;
        let source = Source::Random { seed, std };
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
            stops: Generation::load(dir)?.stops(dir, &config, processor.tokenizer().eos())?,
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

/// Looks at the settings files of a checkpoint's folder, and which files its weights are in; `weights` says whether
/// these are to be read. It is quick: neither the weights nor the vocabulary are looked at.
///
/// # Errors
/// [`VlmError`] with the file and what is wrong with it.
pub fn inspect(dir: &Path, weights: bool) -> Result<(), VlmError> {
    if !is_there(&dir.join(config::FILE)) {
        if !adapter::is_in(dir)? {
            let problem =
                "it holds no config.json; name a checkpoint's folder in Hugging Face's layout";
            return Err(fault(dir, problem));
        }
        let problem = "it holds a PEFT adapter and no base model: put the adapter's two files beside config.json and the \
                       weights of the base checkpoint that it was trained on";
        return Err(fault(dir, problem));
    }
    let config = QwenConfig::load(dir)?;
    Processor::check_settings(dir, &config)?;
    Generation::load(dir)?;
    if weights {
        for name in weight_files(dir)? {
            crate::folder::open(&dir.join(name))?;
        }
        if adapter::is_in(dir)? {
            adapter::check_settings(dir)?;
        }
    }
    Ok(())
}

/// Takes a checkpoint's folder over into the empty folder `to`, with the settings it is to run under. Every file is
/// checked first: settings, the weights' names, shapes and numbers, the tokenizer, the template, the adapter.
///
/// # Errors
/// [`VlmError`] with the file and what is wrong with it.
pub fn import(from: &Path, to: &Path, settings: Settings) -> Result<Imported, VlmError> {
    inspect(from, true)?;
    let config = QwenConfig::load(from)?;
    let processor =
        Processor::load(from, &config)?.with_pixels(settings.min_pixels, settings.max_pixels)?;
    let generation = Generation::load(from)?;
    generation.stops(from, &config, processor.tokenizer().eos())?;
    let parameters = export::check(Checkpoint::open(from)?, &config)?;
    let adapted = adapter::is_in(from)?;
    if adapted {
        adapter::check(from, &config)?;
    }
    processor.save(to)?;
    copy(from, to, config::FILE)?;
    if is_there(&from.join(generation::FILE)) {
        copy(from, to, generation::FILE)?;
    }
    for name in weight_files(from)? {
        copy(from, to, &name)?;
    }
    for name in [adapter::CONFIG, adapter::WEIGHTS] {
        if adapted {
            copy(from, to, name)?;
        }
    }
    write_json(&to.join(SETTINGS), &settings)?;
    Ok(Imported {
        config,
        parameters,
        unused: generation.sampling(),
    })
}

/// What was imported.
pub struct Imported {
    /// Its configuration.
    pub config: QwenConfig,
    /// How many numbers its weights hold.
    pub parameters: usize,
    /// Settings of sampling in `generation_config.json`: stages have params of these names, and take nothing from here.
    pub unused: Vec<(String, Value)>,
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
    if is_there(&from.join(generation::FILE)) {
        copy(from, dir, generation::FILE)?;
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

//! A model's folder: a checkpoint in Hugging Face's layout, `dcsft.json` with the settings it runs under, and, if it has
//! adapters, `adapter_config.json` and `adapter_model.safetensors` in PEFT's.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use dcsft_tensor::device::computes_in;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{Tokenizer as _, VisionLanguageModel as _};
use serde_json::{Map, Value};

use crate::adapter;
use crate::checkpoint::{Checkpoint, weight_files};
use crate::export::{self, MAX_SHARD_BYTES};
use crate::family::Kind;
use crate::folder::{CONFIG, copy, fault, io, is_there, read_json, write_json};
use crate::generation::{self, Generation};
use crate::model::HubModel;
use crate::modules::{self, Source};
use crate::processor::Processor;
use crate::registry::Config;
use crate::settings::{ModelFiles, Precision, Quantize, SETTINGS, Settings};
use crate::stored::Dialect;

impl HubModel {
    /// Reads a model's folder, with adapters if it has any.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, VlmError> {
        Self::load_under(dir, settings(dir)?, device)
    }

    /// As [`HubModel::load`], with no weight quantised, whatever the folder's settings say.
    ///
    /// # Errors
    /// As [`HubModel::load`].
    pub fn load_whole(dir: &Path, device: &Device) -> Result<Self, VlmError> {
        let settings = Settings {
            quantize: Quantize::None,
            ..settings(dir)?
        };
        Self::load_under(dir, settings, device)
    }

    fn load_under(dir: &Path, settings: Settings, device: &Device) -> Result<Self, VlmError> {
        let config = Config::load(dir)?;
        let mut checkpoint = Checkpoint::open(dir, config.kind.names)?;
        if config.family.decoder().config.tied {
            // Some files hold the tied head a second time.
            checkpoint.skip(&export::head());
        }
        let source = Source::Checkpoint(&mut checkpoint);
        let mut model = Self::build(dir, config, settings, source, device)?;
        checkpoint.finish()?;
        if adapter::is_in(dir)? {
            load_adapter(&mut model, dir)?;
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
        Self::random_of(dir, Config::load(dir)?, settings, seed, device)
    }

    /// Writes a model as [`HubModel::random`] makes it into `to`, its weights as they are drawn, and the settings it is to
    /// run under; gives the number of parameters.
    ///
    /// # Errors
    /// As [`HubModel::random`], and of the disk.
    pub fn write_random(
        [from, to]: [&Path; 2],
        settings: Settings,
        seed: u64,
        device: &Device,
    ) -> Result<usize, VlmError> {
        check_quantize(from, settings.quantize)?;
        let whole = Settings {
            quantize: Quantize::None,
            ..settings
        };
        let model = Self::random(from, whole, seed, device)?;
        write(&model, &settings, to)?;
        Ok(model.params().count())
    }

    /// As [`HubModel::random`], of a configuration that was read already.
    pub(crate) fn random_of(
        dir: &Path,
        config: Config,
        settings: Settings,
        seed: u64,
        device: &Device,
    ) -> Result<Self, VlmError> {
        let std = config.family.facts().initializer_range;
        let source = Source::Random {
            seed,
            std: &|_| std,
        };
        let mut model = Self::build(dir, config, settings, source, device)?;
        model.files.unchanged = false;
        Ok(model)
    }

    fn build(
        dir: &Path,
        config: Config,
        settings: Settings,
        source: Source<'_>,
        device: &Device,
    ) -> Result<Self, VlmError> {
        let family = &*config.family;
        let processor = config.processor(dir, &settings)?;
        let dtype = settings.precision.dtype();
        if !computes_in(device, dtype) {
            return Err(VlmError::Config(format!(
                "{}: the model's precision is {}, in which this device does not compute; every device does in f32",
                dir.display(),
                settings.precision
            )));
        }
        let stops = &family.facts().eos_tokens;
        let plan = config.layers.plan(settings.quantize)?;
        Ok(Self {
            stops: Generation::load(dir)?.stops(dir, stops, processor.tokenizer().eos())?,
            weights: modules::weights(&config.layers, source, device, dtype, &plan)?,
            places: None,
            processor: Arc::new(processor),
            config,
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

/// What the model of a folder runs under.
fn settings(dir: &Path) -> Result<Settings, VlmError> {
    let path = dir.join(SETTINGS);
    match path.exists() {
        true => read_json(&path),
        false => Ok(Settings::default()),
    }
}

/// Whether the weights of a checkpoint's folder can be held so; none of them is looked at.
///
/// # Errors
/// [`VlmError::Config`] names a layer whose sizes do not fit; as [`inspect`].
pub fn check_quantize(dir: &Path, quantize: Quantize) -> Result<(), VlmError> {
    Config::load(dir)?.layers.plan(quantize).map(drop)
}

/// Puts the adapters of a PEFT folder on a model.
///
/// # Errors
/// [`VlmError::Weights`] for a setting that is not plain LoRA, or tensors that do not fit the model's layers.
pub fn load_adapter(model: &mut HubModel, dir: &Path) -> Result<(), VlmError> {
    let HubModel {
        config,
        weights,
        device,
        ..
    } = model;
    adapter::load(&config.layers, weights, config.kind.names, device, dir)
}

/// Looks at the settings files of a checkpoint's folder, and which files its weights are in; `weights` says whether
/// these are to be read. It is quick: neither the weights nor the vocabulary are looked at. Gives its family.
///
/// # Errors
/// [`VlmError`] with the file and what is wrong with it.
pub fn inspect(dir: &Path, weights: bool) -> Result<&'static Kind, VlmError> {
    if !is_there(&dir.join(CONFIG)) {
        if !adapter::is_in(dir)? {
            let problem =
                "it holds no config.json; name a checkpoint's folder in Hugging Face's layout";
            return Err(fault(dir, problem));
        }
        let problem = "it holds a PEFT adapter and no base model: put the adapter's two files beside config.json and the \
                       weights of the base checkpoint that it was trained on";
        return Err(fault(dir, problem));
    }
    let config = Config::load(dir)?;
    Processor::check_settings(dir, &*config.family)?;
    Generation::load(dir)?;
    if weights {
        for name in weight_files(dir)? {
            crate::folder::open(&dir.join(name))?;
        }
        if adapter::is_in(dir)? {
            adapter::check_settings(dir)?;
        }
    }
    Ok(config.kind)
}

/// Takes a checkpoint's folder over into the empty folder `to`, with the settings it is to run under. Every file is
/// checked first: settings, the weights' names, shapes and numbers, the tokenizer, the template, the adapter.
///
/// # Errors
/// [`VlmError`] with the file and what is wrong with it.
pub fn import(from: &Path, to: &Path, settings: Settings) -> Result<Imported, VlmError> {
    inspect(from, true)?;
    let config = Config::load(from)?;
    let family = &*config.family;
    let processor = config.processor(from, &settings)?;
    let generation = Generation::load(from)?;
    generation.stops(
        from,
        &family.facts().eos_tokens,
        processor.tokenizer().eos(),
    )?;
    config.layers.plan(settings.quantize)?;
    let parameters = export::check(Checkpoint::open(from, config.kind.names)?, &config)?;
    let adapted = adapter::is_in(from)?;
    if adapted {
        adapter::check(from, &config.layers, config.kind.names)?;
    }
    processor.save(to)?;
    copy(from, to, CONFIG)?;
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
    pub config: Config,
    /// How many numbers its weights hold.
    pub parameters: usize,
    /// Settings of sampling in `generation_config.json`: stages have params of these names, and take nothing from here.
    pub unused: Vec<(String, Value)>,
}

/// Writes the model's folder. A base that nobody trained is linked or copied from where it was read.
pub(crate) fn save(model: &HubModel, dir: &Path) -> Result<(), VlmError> {
    write(model, &model.files.settings, dir)
}

/// As [`save`], with the settings `settings`.
fn write(model: &HubModel, settings: &Settings, dir: &Path) -> Result<(), VlmError> {
    fs::create_dir_all(dir).map_err(io(dir))?;
    let ModelFiles {
        dir: from,
        unchanged,
        ..
    } = &model.files;
    write_json(&dir.join(SETTINGS), settings)?;
    model.processor.save(dir)?;
    if is_there(&from.join(generation::FILE)) {
        copy(from, dir, generation::FILE)?;
    }
    if *unchanged {
        copy(from, dir, CONFIG)?;
        for name in weight_files(from)? {
            if fs::hard_link(from.join(&name), dir.join(&name)).is_err() {
                copy(from, dir, &name)?;
            }
        }
    } else {
        write_json(
            &dir.join(CONFIG),
            &config_for(&model.config.raw, settings.precision),
        )?;
        export::write_weights(model, dir, settings.precision, MAX_SHARD_BYTES)?;
    }
    let layers = &model.config.layers;
    adapter::save(layers, &model.weights, Dialect::Transformers, dir)
}

/// A configuration that says which number type its weights have, wherever it says so.
pub(crate) fn config_for(raw: &Value, precision: Precision) -> Value {
    const KEYS: [&str; 2] = ["dtype", "torch_dtype"];
    let mut config = raw.clone();
    let name = match precision {
        Precision::F32 => "float32",
        Precision::Bf16 => "bfloat16",
    };
    let Some(fields) = config.as_object_mut() else {
        return config;
    };
    let mut said = rename(fields, &KEYS, name);
    for section in ["text_config", "vision_config"] {
        let section = fields.get_mut(section).and_then(Value::as_object_mut);
        said |= section.is_some_and(|section| rename(section, &KEYS, name));
    }
    if !said {
        fields.insert(KEYS[0].to_owned(), name.into());
    }
    config
}

/// Gives those of `keys` that are there the value `name`; tells whether there was one.
fn rename(fields: &mut Map<String, Value>, keys: &[&str], name: &str) -> bool {
    let mut found = false;
    for key in keys {
        if let Some(value) = fields.get_mut(*key) {
            *value = name.into();
            found = true;
        }
    }
    found
}

//! Adapters in PEFT's format.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{DType, Device};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Layout};
use crate::folder::{fault, is_there, write_json};
use crate::lora;
use crate::modules::{Layers, Weights, tensor};
use crate::names::{Names, PEFT_PREFIX};
use crate::peft::PeftConfig;
use crate::stored::{Dialect, Stored, write_file};

/// PEFT's configuration.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// PEFT's weights.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's weights in older versions.
const OLD_WEIGHTS: &str = "adapter_model.bin";

/// What is written: the fields that PEFT needs to load a plain LoRA adapter. Those that are none are about models of
/// Transformers.
#[derive(Serialize)]
struct Written<'a> {
    peft_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_model_name_or_path: Option<&'a str>,
    r: usize,
    lora_alpha: f64,
    lora_dropout: f64,
    bias: &'a str,
    fan_in_fan_out: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    inference_mode: Option<bool>,
    target_modules: BTreeSet<&'a str>,
}

/// Writes a model's adapters, if it has any, into `dir`; `dialect` is that of the base's files.
pub(crate) fn save(
    layers: &Layers,
    weights: &Weights,
    dialect: Dialect,
    dir: &Path,
) -> Result<(), VlmError> {
    let Some(lora) = &weights.lora else {
        return Ok(());
    };
    let adapted = layers.adaptable.iter().zip(&weights.adapters);
    let adapted = adapted.filter(|(_, adapter)| adapter.is_some());
    let names = adapted.map(|(each, _)| &*each.layer.name);
    let hub = dialect == Dialect::Transformers;
    let config = Written {
        peft_type: "LORA",
        task_type: hub.then_some("CAUSAL_LM"),
        base_model_name_or_path: hub.then_some(""),
        r: lora.rank,
        lora_alpha: lora.alpha,
        lora_dropout: lora.dropout,
        bias: "none",
        fan_in_fan_out: false,
        inference_mode: hub.then_some(true),
        target_modules: names.collect(),
    };
    write_json(&dir.join(CONFIG), &config)?;
    let adapters = weights
        .params
        .iter()
        .filter(|param| lora::is_adapter(param));
    let stored = adapters.map(|param| Stored {
        name: format!("{PEFT_PREFIX}{}", param.name),
        param,
        layout: Layout::Linear,
        shape: None,
        dtype: DType::F32,
    });
    write_file(&dir.join(WEIGHTS), stored.collect(), dialect)
}

/// Whether a folder holds an adapter.
///
/// # Errors
/// [`VlmError::Weights`] for half of one, or one in a format that cannot be read.
pub(crate) fn is_in(dir: &Path) -> Result<bool, VlmError> {
    let there = |name: &str| is_there(&dir.join(name));
    let old = match there(OLD_WEIGHTS) {
        true => format!("; {OLD_WEIGHTS} cannot be read, only safetensors can"),
        false => String::new(),
    };
    match (there(CONFIG), there(WEIGHTS)) {
        (true, true) => Ok(true),
        (false, false) if old.is_empty() => Ok(false),
        (true, false) => Err(fault(
            dir,
            format!("it holds {CONFIG} and no {WEIGHTS}{old}"),
        )),
        (false, _) => Err(fault(
            dir,
            format!(
                "it holds an adapter's weights and no {CONFIG}, so nobody can say what they compute: add that file, or \
                 take {WEIGHTS} out"
            ),
        )),
    }
}

/// Looks at an adapter's configuration alone.
///
/// # Errors
/// [`VlmError::Weights`] names a field that cannot be computed here.
pub(crate) fn check_settings(dir: &Path) -> Result<(), VlmError> {
    PeftConfig::load(&dir.join(CONFIG)).map(drop)
}

/// An adapter as it lies in a folder, with the modules that it is on.
struct Stowed {
    config: PeftConfig,
    checkpoint: Checkpoint,
    modules: BTreeMap<String, Factors>,
}

/// Both factors of one module's adapter, by the names of their tensors.
struct Factors {
    a: String,
    b: String,
    rank: usize,
    /// Inputs and outputs of the module.
    sizes: [usize; 2],
}

impl Stowed {
    fn open(dir: &Path, layers: &Layers, names: Names) -> Result<Self, VlmError> {
        let (path, file) = (dir.join(CONFIG), dir.join(WEIGHTS));
        let peft = PeftConfig::load(&path)?;
        let checkpoint = Checkpoint::of_files(&file, vec![file.clone()], names)?;
        let linear = linear_layers(layers);
        let mut found: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
        for name in checkpoint.names() {
            let (module, factor) = parse(name, names).ok_or_else(|| {
                let problem = format!(
                    "the tensor {name} is none of an adapter's: these are called \
                     {PEFT_PREFIX}MODULE.lora_A.weight and {PEFT_PREFIX}MODULE.lora_B.weight"
                );
                fault(&file, problem)
            })?;
            let place = &mut found.entry(module).or_default()[factor];
            if place.replace(name.to_owned()).is_some() {
                return Err(fault(
                    &file,
                    format!("the tensor {name} is there under two names"),
                ));
            }
        }
        let mut modules = BTreeMap::new();
        for (module, factors) in found {
            let ([Some(a), Some(b)], Some(&sizes)) = (factors, linear.get(&module)) else {
                let problem = format!(
                    "its adapter for {module} has one factor alone, or the model has no linear layer of this name that \
                     adapters can be on"
                );
                return Err(fault(&file, problem));
            };
            let rank = peft.rank_of(&module, &names)?;
            modules.insert(module, Factors { a, b, rank, sizes });
        }
        check_targets(&path, &peft, &modules, &linear, names)?;
        Ok(Self {
            config: peft,
            checkpoint,
            modules,
        })
    }
}

/// PEFT puts adapters on the modules that the configuration names, and leaves tensors of others unused.
fn check_targets(
    path: &Path,
    config: &PeftConfig,
    modules: &BTreeMap<String, Factors>,
    linear: &BTreeMap<String, [usize; 2]>,
    names: Names,
) -> Result<(), VlmError> {
    let meant = |rename: &dyn Fn(&str) -> String| -> Result<BTreeSet<&String>, VlmError> {
        let mut meant = BTreeSet::new();
        for module in linear.keys() {
            if config.is_on(&rename(module))? {
                meant.insert(module);
            }
        }
        Ok(meant)
    };
    let stored: BTreeSet<&String> = modules.keys().collect();
    let now = meant(&str::to_owned)?;
    // Names of modules were others before Transformers 4.52, and adapters of that time are written for them.
    if now == stored || meant(&|name| names.published(name))? == stored {
        return Ok(());
    }
    let problem = match (
        now.difference(&stored).next(),
        stored.difference(&now).next(),
    ) {
        (_, Some(module)) => format!(
            "by `target_modules` and the fields that go with it there is no adapter on {module}, and {WEIGHTS} has one, \
             which PEFT would leave out"
        ),
        (Some(module), None) => format!(
            "by `target_modules` and the fields that go with it there is an adapter on {module}, and {WEIGHTS} has none"
        ),
        (None, None) => return Ok(()),
    };
    Err(fault(path, problem))
}

/// The linear layers that adapters can be on, with inputs and outputs.
fn linear_layers(layers: &Layers) -> BTreeMap<String, [usize; 2]> {
    let layers = layers.adaptable.iter();
    layers
        .map(|each| (each.layer.name.to_string(), each.sizes))
        .collect()
}

/// The module that a tensor of an adapter's file belongs to, and which factor it is. State dicts of a wrapped model
/// have the adapter's name in theirs.
fn parse(name: &str, names: Names) -> Option<(String, usize)> {
    let name = name.strip_prefix(PEFT_PREFIX)?;
    ["A", "B"]
        .into_iter()
        .enumerate()
        .find_map(|(factor, letter)| {
            let endings = [
                format!(".lora_{letter}.weight"),
                format!(".lora_{letter}.default.weight"),
            ];
            let module = endings
                .iter()
                .find_map(|ending| name.strip_suffix(ending.as_str()))?;
            Some((names.module_of(module), factor))
        })
}

/// Checks an adapter against the configuration of its base, without a model.
///
/// # Errors
/// [`VlmError::Weights`] for a setting that cannot be computed here, tensors that do not fit the model's layers, or
/// numbers that are none.
pub(crate) fn check(dir: &Path, layers: &Layers, names: Names) -> Result<(), VlmError> {
    let Stowed {
        mut checkpoint,
        modules,
        ..
    } = Stowed::open(dir, layers, names)?;
    for factors in modules.values() {
        let [input, output] = factors.sizes;
        checkpoint.check(&factors.a, [input, factors.rank], Layout::Linear)?;
        checkpoint.check(&factors.b, [factors.rank, output], Layout::Linear)?;
    }
    checkpoint.finish()
}

/// Puts the adapters of a PEFT folder on a model's layers.
///
/// # Errors
/// [`VlmError::Weights`] for a setting that is not plain LoRA, or tensors that do not fit the model's layers.
pub(crate) fn load(
    layers: &Layers,
    weights: &mut Weights,
    names: Names,
    device: &Device,
    dir: &Path,
) -> Result<(), VlmError> {
    let path = dir.join(CONFIG);
    let Stowed {
        config,
        mut checkpoint,
        modules,
    } = Stowed::open(dir, layers, names)?;
    let lora = common(layers, names, &config, &modules)?;
    let adaptable = layers.adaptable.iter().enumerate();
    let chosen = adaptable.filter(|(_, each)| modules.contains_key(&*each.layer.name));
    let chosen = chosen.map(|(place, _)| place).collect();
    lora::add_to(layers, weights, device, (&lora, 0), &chosen)
        .map_err(|error| fault(&path, error.to_string()))?;
    for (module, factors) in &modules {
        let (rank, [input, output]) = (factors.rank, factors.sizes);
        let a = checkpoint.take(&factors.a, [input, rank], Layout::Linear)?;
        let mut b = checkpoint.take(&factors.b, [rank, output], Layout::Linear)?;
        // All adapters have one factor here: what is peculiar to a module goes into its second matrix.
        let own = config.scale_of(module, &names)? / lora.scale();
        if config.plain().is_none() && own.is_finite() && own != 1.0 {
            b.iter_mut()
                .for_each(|value| *value = (f64::from(*value) * own) as f32);
        }
        let a = widened(a, rank, lora.rank);
        b.resize(lora.rank * output, 0.0);
        for (letter, values, shape) in [("A", a, [input, lora.rank]), ("B", b, [lora.rank, output])]
        {
            let name = format!("{module}.lora_{letter}.weight");
            let param = weights.params.iter_mut().find(|param| param.name == name);
            if let Some(param) = param {
                param.value = tensor(values, shape, device, DType::F32).require_grad();
            }
        }
    }
    checkpoint.finish()
}

/// The one setting that stands for all modules': narrower adapters are filled up with zeros.
fn common(
    layers: &Layers,
    names: Names,
    config: &PeftConfig,
    modules: &BTreeMap<String, Factors>,
) -> Result<LoraConfig, VlmError> {
    let mut targets: BTreeSet<ModuleGroup> = BTreeSet::new();
    for each in &layers.adaptable {
        if modules.contains_key(&*each.layer.name) {
            targets.insert(each.group);
        }
    }
    let (rank, alpha) = match config.plain() {
        Some(plain) => plain,
        None => {
            let widest = modules.values().map(|factors| factors.rank).max();
            let rank = widest.unwrap_or(1);
            let scales: Result<Vec<f64>, _> = modules
                .keys()
                .map(|module| config.scale_of(module, &names))
                .collect();
            let some = scales?.into_iter().find(|scale| *scale != 0.0);
            (rank, some.unwrap_or(0.0) * rank as f64)
        }
    };
    Ok(LoraConfig {
        rank,
        alpha,
        dropout: config.dropout,
        targets,
        target_modules: None,
    })
}

/// Rows of `from` values, each followed by zeros up to `to`.
fn widened(values: Vec<f32>, from: usize, to: usize) -> Vec<f32> {
    if from == to {
        return values;
    }
    let rows = values.chunks_exact(from);
    rows.flat_map(|row| {
        row.iter()
            .copied()
            .chain(std::iter::repeat_n(0.0, to - from))
    })
    .collect()
}

//! `adapter_config.json` as PEFT writes and reads it: which modules an adapter is on, and what it computes.
//!
//! A field acts as in PEFT, or is refused by its name: methods that change the base's weights or the adapter's product
//! (PiSSA, OLoRA, DoRA, aLoRA, ...) keep their tensors under the same names as plain LoRA.

mod names;

use std::path::Path;

use dcsft_vlm::error::VlmError;
use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::fields::{Known, Only, short};
use crate::folder::{fault, read_json};
use crate::names::Names as Renames;

pub(crate) use names::Names;
use names::{compile, is_match, texts};

/// Fields that are read here.
const READ: &[&str] = &[
    "alpha_pattern",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
];

/// Fields about where an adapter comes from or how it is loaded; `megatron_core` and `qalora_group_size` belong to
/// methods that are switched on by other fields.
const IDLE: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Fields of other methods.
const OTHERS: &[(&str, Only)] = &[
    ("alora_invocation_tokens", Only::Off),
    ("arrow_config", Only::Off),
    ("bias", Only::Text(&["none"])),
    ("corda_config", Only::Off),
    ("ensure_weight_tying", Only::Off),
    ("eva_config", Only::Off),
    ("fan_in_fan_out", Only::Off),
    ("kasa_config", Only::Off),
    ("layer_replication", Only::Off),
    ("loftq_config", Only::Off),
    ("lora_bias", Only::Off),
    ("lora_ga_config", Only::Off),
    ("megatron_config", Only::Off),
    ("modules_to_save", Only::Off),
    ("monteclora_config", Only::Off),
    ("target_parameters", Only::Off),
    ("trainable_token_indices", Only::Off),
    ("use_bdlora", Only::Off),
    ("use_dora", Only::Off),
    ("use_qalora", Only::Off),
    ("velora_config", Only::Off),
];

const KNOWN: Known = Known {
    read: &[READ],
    idle: &[IDLE],
    only: &[OTHERS],
    off_is_default: true,
    ..Known::NOTHING
};

/// How an adapter was begun, where that left the base's weights alone: then its tensors are all there is to it.
const BEGINNINGS: [&str; 1] = ["gaussian"];

/// The configuration of a LoRA adapter.
pub(crate) struct PeftConfig {
    rank: usize,
    alpha: f64,
    pub(crate) dropout: f64,
    rslora: bool,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    targets: Targets,
    excluded: Option<Names>,
    /// Indices of layers, where not all of them are meant.
    layers: Option<Vec<usize>>,
    /// Names of the lists that these are indices in.
    lists: Vec<String>,
}

enum Targets {
    /// All linear layers but the output layer.
    AllLinear,
    Named(Names),
}

#[derive(Deserialize)]
struct Fields {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: Option<f64>,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    rank_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    alpha_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    target_modules: Option<Value>,
    #[serde(default)]
    exclude_modules: Option<Value>,
    #[serde(default)]
    layers_to_transform: Option<Value>,
    #[serde(default)]
    layers_pattern: Option<Value>,
}

impl PeftConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`VlmError`] with the file and the field.
    pub(crate) fn load(path: &Path) -> Result<Self, VlmError> {
        let fields: Map<String, Value> = read_json(path)?;
        Self::of(fields).map_err(|problem| fault(path, problem))
    }

    fn of(fields: Map<String, Value>) -> Result<Self, String> {
        let hint = "adapters of plain LoRA alone can be read";
        match fields.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            other => {
                return Err(format!(
                    "`peft_type` is {other:?}, and only \"LORA\" can be read"
                ));
            }
        }
        KNOWN
            .check("", &fields)
            .map_err(|problem| format!("{problem}; {hint}"))?;
        check_beginning(fields.get("init_lora_weights"))?;
        let fields: Fields =
            serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
        if fields.r == 0 || !fields.lora_alpha.is_finite() {
            return Err(format!(
                "`r` is {} and `lora_alpha` {}; they must be a positive integer and a number",
                fields.r, fields.lora_alpha
            ));
        }
        let layers = layers(fields.layers_to_transform)?;
        let lists = match fields.layers_pattern {
            Some(Value::String(list)) if !list.is_empty() => vec![list],
            other => texts("layers_pattern", other)?,
        };
        let is_pattern = fields.target_modules.as_ref().is_some_and(Value::is_string);
        if layers.is_some() && is_pattern || layers.is_none() && !lists.is_empty() {
            return Err(
                "`layers_to_transform` goes with `target_modules` that is a list, and `layers_pattern` with \
                 `layers_to_transform`, as in PEFT"
                    .into(),
            );
        }
        Ok(Self {
            rank: fields.r,
            alpha: fields.lora_alpha,
            dropout: fields.lora_dropout.unwrap_or(0.0),
            rslora: fields.use_rslora.unwrap_or(false),
            ranks: patterns("rank_pattern", fields.rank_pattern, |value| {
                let rank = value.as_u64().filter(|&rank| rank > 0)?;
                usize::try_from(rank).ok()
            })?,
            alphas: patterns("alpha_pattern", fields.alpha_pattern, Value::as_f64)?,
            targets: match fields.target_modules {
                Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => {
                    Targets::AllLinear
                }
                other => Targets::Named(
                    Names::read("target_modules", other)?
                        .ok_or("`target_modules` is missing: the modules that the adapter is on")?,
                ),
            },
            excluded: Names::read("exclude_modules", fields.exclude_modules)?,
            layers,
            lists,
        })
    }

    /// Whether the adapter is on a module of this name: PEFT's `check_target_module_exists`.
    pub(crate) fn is_on(&self, module: &str) -> Result<bool, VlmError> {
        if let Some(excluded) = &self.excluded
            && excluded.matches(module)?
        {
            return Ok(false);
        }
        match &self.targets {
            Targets::AllLinear => Ok(true),
            Targets::Named(names @ Names::Pattern(_)) => names.matches(module),
            Targets::Named(Names::List(list)) if list.iter().any(|name| name == module) => Ok(true),
            Targets::Named(names) => Ok(names.matches(module)? && self.is_in_layer(module)?),
        }
    }

    /// Whether the module's layer is among those that are meant.
    fn is_in_layer(&self, module: &str) -> Result<bool, VlmError> {
        let Some(layers) = &self.layers else {
            return Ok(true);
        };
        let found = match self.lists.is_empty() {
            // The last list of layers that the name has an index of.
            true => capture(r"^.*\.[^.]*\.(\d+)\.", module)?,
            false => {
                let mut found = None;
                for list in &self.lists {
                    found = match found {
                        None => capture(&format!(r"^.*\.{list}\.(\d+)\."), module)?,
                        some => some,
                    };
                }
                found
            }
        };
        Ok(found.is_some_and(|index| layers.contains(&index)))
    }

    /// Inner width of a module's adapter.
    pub(crate) fn rank_of(&self, module: &str, names: &Renames) -> Result<usize, VlmError> {
        Ok(pick(&self.ranks, module, names)?.unwrap_or(self.rank))
    }

    /// Whether all modules have the default rank and alpha, and the factor is their quotient.
    pub(crate) fn plain(&self) -> Option<(usize, f64)> {
        let plain = !self.rslora && self.ranks.is_empty() && self.alphas.is_empty();
        plain.then_some((self.rank, self.alpha))
    }

    /// Factor of a module's adapter: `alpha / r`, or `alpha / sqrt(r)` with `use_rslora` (Kalajdzievski 2023).
    pub(crate) fn scale_of(&self, module: &str, names: &Renames) -> Result<f64, VlmError> {
        let alpha = pick(&self.alphas, module, names)?.unwrap_or(self.alpha);
        Ok(self.factor(alpha, self.rank_of(module, names)?))
    }

    fn factor(&self, alpha: f64, rank: usize) -> f64 {
        match self.rslora {
            true => alpha / libm::sqrt(rank as f64),
            false => alpha / rank as f64,
        }
    }
}

/// `init_lora_weights`: beginnings that change the base's weights make it another base.
fn check_beginning(value: Option<&Value>) -> Result<(), String> {
    match value {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(name)) if BEGINNINGS.contains(&name.to_lowercase().as_str()) => Ok(()),
        Some(other) => Err(format!(
            "`init_lora_weights` is {}: such an adapter may belong to other base weights than those of the checkpoint, \
             and only true, false and \"gaussian\" can be read; PEFT converts it with \
             `save_pretrained(..., path_initial_model_for_weight_conversion=...)`",
            short(other)
        )),
    }
}

/// Values by patterns of module names, PEFT's `get_pattern_key`: the name, or its end after a full stop.
fn patterns<T>(
    field: &str,
    map: Option<Map<String, Value>>,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(Regex, T)>, String> {
    let each = |(pattern, value): (String, Value)| {
        let number = read(&value)
            .ok_or_else(|| format!("`{field}` gives {pattern:?} the value {}", short(&value)))?;
        let regex = compile(field, &pattern, &format!(r"^(?:.*\.)?(?:{pattern})$"))?;
        Ok((regex, number))
    };
    map.into_iter().flatten().map(each).collect()
}

/// The value of the first pattern that fits.
fn pick<T: Copy>(
    patterns: &[(Regex, T)],
    module: &str,
    names: &Renames,
) -> Result<Option<T>, VlmError> {
    for (regex, value) in patterns {
        if is_match(regex, module)? || is_match(regex, &names.published(module))? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// The number that a pattern finds in a name.
fn capture(pattern: &str, module: &str) -> Result<Option<usize>, VlmError> {
    let problem = |error| {
        VlmError::Config(format!(
            "the pattern {pattern:?} cannot be applied: {error}"
        ))
    };
    let found = Regex::new(pattern)
        .and_then(|regex| {
            let captures = regex.captures(module)?;
            Ok(captures.and_then(|captures| Some(captures.get(1)?.as_str().to_owned())))
        })
        .map_err(problem)?;
    Ok(found.and_then(|digits| digits.parse().ok()))
}

/// `layers_to_transform`: an index or several.
fn layers(value: Option<Value>) -> Result<Option<Vec<usize>>, String> {
    let index = |value: &Value| value.as_u64().and_then(|index| usize::try_from(index).ok());
    let list = match &value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) if list.is_empty() => return Ok(None),
        Some(Value::Array(list)) => list.iter().map(index).collect(),
        Some(one) => index(one).map(|one| vec![one]),
    };
    list.map(Some)
        .ok_or_else(|| "`layers_to_transform` must be an index or a list of indices".into())
}

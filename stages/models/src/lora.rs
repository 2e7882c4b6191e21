//! Adapters on the layers of some module groups.

use std::collections::BTreeSet;

use burn::tensor::{DType, Device};
use dcsft_tensor::ops::{self, Activation};
use dcsft_tensor::params::{Param, ParamId, ParamSet};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::LoraConfig;

use crate::modules::{Layers, Weights, tensor};
use crate::names;
use crate::peft::Names;

/// The places of the layers that `config` puts adapters on, among those that adapters can be on.
///
/// # Errors
/// [`VlmError::Config`] for a pattern that cannot be read, or that fits no layer.
pub(crate) fn chosen(layers: &Layers, config: &LoraConfig) -> Result<BTreeSet<usize>, VlmError> {
    let adaptable = layers.adaptable.iter().enumerate();
    let of_groups = adaptable.filter(|(_, each)| config.targets.contains(&each.group));
    let Some(names) = &config.target_modules else {
        return Ok(of_groups.map(|(place, _)| place).collect());
    };
    let names = Names::of(names).map_err(VlmError::Config)?;
    let mut chosen = BTreeSet::new();
    for (place, each) in of_groups {
        if names.matches(&each.layer.name)? {
            chosen.insert(place);
        }
    }
    match chosen.is_empty() {
        false => Ok(chosen),
        true => Err(VlmError::Config(format!(
            "lora.target_modules: {} fits no linear layer of the groups in lora.targets; they are called such as {:?}",
            names, layers.adaptable[0].layer.name
        ))),
    }
}

/// Puts adapters on the layers that `config` names and freezes all other weights. `a` is uniform in ±1/sqrt(in) (what
/// PEFT's Kaiming initialisation comes to), `b` zero. Adapters are in 32 bits whatever the base is, as PEFT's are.
pub(crate) fn add(
    layers: &Layers,
    weights: &mut Weights,
    device: &Device,
    config: &LoraConfig,
    seed: u64,
) -> Result<(), VlmError> {
    config.validate()?;
    let chosen = chosen(layers, config)?;
    add_to(layers, weights, device, (config, seed), &chosen)
}

/// As [`add`], on the layers of these places.
pub(crate) fn add_to(
    layers: &Layers,
    weights: &mut Weights,
    device: &Device,
    (config, seed): (&LoraConfig, u64),
    chosen: &BTreeSet<usize>,
) -> Result<(), VlmError> {
    config.validate()?;
    if weights.lora.is_some() {
        return Err(VlmError::Config(
            "the model has adapters already; merge them into its weights first".into(),
        ));
    }
    let Weights {
        params, adapters, ..
    } = weights;
    for param in params.iter_mut() {
        param.set_trainable(false);
    }
    for &place in chosen {
        let each = &layers.adaptable[place];
        let [input, output] = each.sizes;
        let bound = 1.0 / libm::sqrt(input as f64);
        let name = adapter_name(&each.layer.name, "A");
        let mut stream = StreamKey::new("lora", seed).text(&name).stream();
        let values = (0..input * config.rank)
            .map(|_| stream.range(-bound, bound) as f32)
            .collect();
        let mut push = |name: String, values: Vec<f32>, shape: [usize; 2]| -> ParamId {
            params.push(Param {
                name,
                value: tensor(values, shape, device, DType::F32).require_grad(),
                trainable: true,
                decay: true,
            })
        };
        let a = push(name, values, [input, config.rank]);
        let zeros = vec![0.0; config.rank * output];
        let b = push(
            adapter_name(&each.layer.name, "B"),
            zeros,
            [config.rank, output],
        );
        adapters[place] = Some((a, b));
    }
    weights.lora = Some(config.clone());
    Ok(())
}

/// Trains the adapters that a model has, as `config` says, which has to fit them.
///
/// # Errors
/// [`VlmError::Config`] names the setting by which other adapters are meant.
pub(crate) fn go_on(
    layers: &Layers,
    weights: &mut Weights,
    config: &LoraConfig,
) -> Result<(), VlmError> {
    config.validate()?;
    let Some(own) = &weights.lora else {
        return Ok(());
    };
    let adapters = weights.adapters.iter().enumerate();
    let there: BTreeSet<usize> = adapters
        .filter_map(|(place, adapter)| adapter.map(|_| place))
        .collect();
    check_same(layers, config, own, &there)?;
    for param in weights.params.iter_mut() {
        param.set_trainable(is_adapter(param));
    }
    weights.lora = Some(config.clone());
    Ok(())
}

/// That `config` means the adapters `own`, which are on the layers of the places `there`.
///
/// # Errors
/// [`VlmError::Config`] names the setting by which other adapters are meant.
pub(crate) fn check_same(
    layers: &Layers,
    config: &LoraConfig,
    own: &LoraConfig,
    there: &BTreeSet<usize>,
) -> Result<(), VlmError> {
    let other = if config.rank != own.rank {
        format!("rank {}, and lora.rank is {}", own.rank, config.rank)
    } else if config.alpha != own.alpha {
        format!("alpha {}, and lora.alpha is {}", own.alpha, config.alpha)
    } else if chosen(layers, config)? != *there {
        "other layers than lora.targets and lora.target_modules name".to_owned()
    } else {
        return Ok(());
    };
    Err(VlmError::Config(format!(
        "the adapters of a quantised model cannot be merged into it and are trained further, so `lora` has to fit them: \
         they have {other}"
    )))
}

/// The name of an adapter's factor, as PEFT's without the prefix of the wrapped model.
pub(crate) fn adapter_name(layer: &str, factor: &str) -> String {
    format!("{layer}.lora_{factor}.weight")
}

/// Adds the adapters' products to the weights, which stay in the type `dtype`, and removes them; all weights are
/// trainable afterwards. Tells whether there were any.
pub(crate) fn merge(layers: &Layers, weights: &mut Weights, dtype: DType) -> bool {
    let Weights {
        params,
        adapters,
        lora,
    } = weights;
    let Some(lora) = lora.take() else {
        return false;
    };
    for (each, adapter) in layers.adaptable.iter().zip(adapters) {
        let Some((a, b)) = adapter.take() else {
            continue;
        };
        let layer = &each.layer;
        let value = |params: &ParamSet, id| params.get(id).clone().inner();
        let (a, b) = (value(params, a), value(params, b));
        let product = ops::linear(a, &b, None, None, Activation::None) * lora.scale();
        let merged = value(params, layer.weight).cast(DType::F32) + product;
        params.get_mut(layer.weight).value = merged.cast(dtype).autodiff();
    }
    params.retain(|param| !is_adapter(param));
    for param in params.iter_mut() {
        param.set_trainable(true);
    }
    true
}

/// Whether a weight belongs to an adapter.
pub(crate) fn is_adapter(param: &Param) -> bool {
    names::is_adapter(&param.name)
}

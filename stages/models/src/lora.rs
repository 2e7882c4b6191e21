//! Adapters on the layers of some module groups.

use std::collections::BTreeSet;

use burn::tensor::DType;
use dcsft_tensor::ops::{self, Activation};
use dcsft_tensor::params::{Param, ParamId, ParamSet};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::LoraConfig;

use crate::model::HubModel;
use crate::modules::{Weights, tensor};
use crate::peft::Names;

/// Puts adapters on the layers of the named groups and freezes all other weights. `a` is uniform in ±1/sqrt(in) (what
/// PEFT's Kaiming initialisation comes to), `b` zero. Adapters are in 32 bits whatever the base is, as PEFT's are.
pub(crate) fn add(model: &mut HubModel, config: &LoraConfig, seed: u64) -> Result<(), VlmError> {
    let Some(names) = &config.target_modules else {
        return add_to(model, config, seed, |_| true);
    };
    let names = Names::of(names).map_err(VlmError::Config)?;
    let mut wanted = BTreeSet::new();
    let adaptable = &model.config.layers.adaptable;
    for each in adaptable {
        if config.targets.contains(&each.group) && names.matches(&each.layer.name)? {
            wanted.insert(each.layer.name.to_string());
        }
    }
    if wanted.is_empty() {
        return Err(VlmError::Config(format!(
            "lora.target_modules: {} fits no linear layer of the groups in lora.targets; they are called such as {:?}",
            names, adaptable[0].layer.name
        )));
    }
    add_to(model, config, seed, |name| wanted.contains(name))
}

/// As [`add`], on those layers of the groups that `wanted` picks by name.
pub(crate) fn add_to(
    model: &mut HubModel,
    config: &LoraConfig,
    seed: u64,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), VlmError> {
    config.validate()?;
    if model.weights.lora.is_some() {
        return Err(VlmError::Config(
            "the model has adapters already; merge them into its weights first".into(),
        ));
    }
    let HubModel {
        config: model_config,
        weights,
        device,
        ..
    } = model;
    let Weights {
        params, adapters, ..
    } = weights;
    for param in params.iter_mut() {
        param.set_trainable(false);
    }
    for (each, adapter) in model_config.layers.adaptable.iter().zip(adapters) {
        if !config.targets.contains(&each.group) || !wanted(&each.layer.name) {
            continue;
        }
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
        *adapter = Some((a, b));
    }
    weights.lora = Some(config.clone());
    Ok(())
}

/// The name of an adapter's factor, as PEFT's without the prefix of the wrapped model.
pub(crate) fn adapter_name(layer: &str, factor: &str) -> String {
    format!("{layer}.lora_{factor}.weight")
}

/// Adds the adapters' products to the weights and removes them; all weights are trainable afterwards.
pub(crate) fn merge(model: &mut HubModel) {
    let HubModel {
        config,
        weights,
        dtype,
        files,
        ..
    } = model;
    let Weights {
        params,
        adapters,
        lora,
    } = weights;
    let Some(lora) = lora.take() else {
        return;
    };
    files.unchanged = false;
    for (each, adapter) in config.layers.adaptable.iter().zip(adapters) {
        let Some((a, b)) = adapter.take() else {
            continue;
        };
        let layer = &each.layer;
        let value = |params: &ParamSet, id| params.get(id).clone().inner();
        let (a, b) = (value(params, a), value(params, b));
        let product = ops::linear(a, &b, None, None, Activation::None) * lora.scale();
        let merged = value(params, layer.weight).cast(DType::F32) + product;
        params.get_mut(layer.weight).value = merged.cast(*dtype).autodiff();
    }
    params.retain(|param| !is_adapter(param));
    for param in params.iter_mut() {
        param.set_trainable(true);
    }
}

/// Whether a weight belongs to an adapter.
pub(crate) fn is_adapter(param: &Param) -> bool {
    param.name.ends_with(".lora_A.weight") || param.name.ends_with(".lora_B.weight")
}

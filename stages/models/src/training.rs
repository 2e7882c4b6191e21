//! What a training comes to on layers that were declared: how many numbers it updates, and what cannot be trained.

use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, nothing_left, untrained};
use dcsft_vlm::memory::Training;

use crate::lora;
use crate::modules::{Declared, Layers};

/// Numbers that training updates, of layers that were declared.
pub(crate) fn trained(layers: &Layers, training: Training<'_>) -> f64 {
    let Some(lora) = training.lora else {
        let weights = layers.weights.iter();
        let whole = weights.filter(|weight| training.is_whole(weight.group));
        return whole.map(Declared::numbers).sum::<usize>() as f64;
    };
    // A pattern that cannot be read is refused.
    let chosen = lora::chosen(layers, lora).unwrap_or_default();
    let sizes = chosen
        .into_iter()
        .map(|place| layers.adaptable[place].sizes);
    let widths: usize = sizes.map(|[input, output]| input + output).sum();
    (lora.rank * widths) as f64
}

/// What a model with these layers does not allow of `training`, with the field that asks for it. `carried` are the adapters
/// that it comes with; `quantised` says how its weights are held.
pub(crate) fn refuses(
    layers: &Layers,
    quantised: bool,
    training: Training<'_>,
    carried: Option<&LoraConfig>,
) -> Option<(&'static str, VlmError)> {
    let Some(lora) = training.lora else {
        if quantised {
            return Some(("", untrained()));
        }
        return (trained(layers, training) == 0.0).then(|| ("freeze", nothing_left()));
    };
    if let Err(error) = lora::chosen(layers, lora) {
        return Some(("lora.target_modules", error));
    }
    let own = carried.filter(|_| quantised)?;
    let there = lora::chosen(layers, own).ok()?;
    let other = lora::check_same(layers, lora, own, &there).err()?;
    Some(("lora", other))
}

//! The named layers that a family is built of, and their weights.
//!
//! A family declares its layers once, from its configuration ([`Layers`]). Loading with names and shapes checked, random
//! weights, export, adapters, freezing and the count of parameters follow from what it declared.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use dcsft_tensor::host::send;
use dcsft_tensor::ops::DropoutKeys;
use dcsft_tensor::params::{Param, ParamId, ParamSet};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{self, LoraConfig, ModuleGroup};
use half::bf16;
use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, Layout};
use crate::names;
use crate::quantize::{self, Plan};
use crate::settings::Quantize;

/// A linear layer, `x @ weight + bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Dotted name of the module.
    pub name: Arc<str>,
    /// `[in, out]`.
    pub weight: ParamId,
    /// `[1, out]`.
    pub bias: Option<ParamId>,
    /// Its place among the layers that adapters can be on.
    pub(crate) place: Option<usize>,
}

/// A root-mean-square normalisation.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// `[1, width]`.
    pub scale: ParamId,
    /// Added to the mean square under the root.
    pub epsilon: f64,
}

/// A layer normalisation.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// `[1, width]`.
    pub scale: ParamId,
    /// `[1, width]`.
    pub shift: ParamId,
    /// Added to the variance under the root.
    pub epsilon: f64,
}

/// A weight that a family declared.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its module's name and its own.
    pub name: String,
    /// Rows and columns in memory.
    pub shape: [usize; 2],
    /// How it lies in a file.
    pub layout: Layout,
    /// Its shape in a file, where the layout does not say it: a convolution's.
    pub(crate) file_shape: Option<Vec<usize>>,
    /// The part of the model that it belongs to.
    pub group: ModuleGroup,
    /// Subject to weight decay.
    pub(crate) decay: bool,
}

impl Declared {
    /// How many numbers it holds.
    pub fn numbers(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

/// A layer that adapters can be on.
#[derive(Clone, Debug)]
pub struct Adaptable {
    /// The layer.
    pub layer: Linear,
    /// Its part of the model.
    pub group: ModuleGroup,
    /// Inputs and outputs.
    pub sizes: [usize; 2],
}

/// Takes down the layers of a model, in the order in which their weights are read.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    pub(crate) weights: Vec<Declared>,
    pub(crate) adaptable: Vec<Adaptable>,
}

impl Layers {
    /// A linear layer that adapters can be on.
    pub fn linear(
        &mut self,
        group: ModuleGroup,
        name: &str,
        [input, output]: [usize; 2],
        bias: bool,
    ) -> Linear {
        let mut layer = self.plain_linear(group, name, [input, output], bias);
        layer.place = Some(self.adaptable.len());
        self.adaptable.push(Adaptable {
            layer: layer.clone(),
            group,
            sizes: [input, output],
        });
        layer
    }

    /// A convolution whose windows do not overlap, as a linear layer on the values of a patch; `kernel` is its shape in a
    /// file, outputs first. Adapters are on none, as in ms-swift.
    pub fn convolution(
        &mut self,
        group: ModuleGroup,
        name: &str,
        kernel: &[usize],
        bias: bool,
    ) -> Linear {
        let sizes = [kernel[1..].iter().product(), kernel[0]];
        let layer = self.plain_linear(group, name, sizes, bias);
        self.weights[layer.weight.0].file_shape = Some(kernel.to_vec());
        layer
    }

    /// A linear layer that adapters are never on, such as an output head.
    pub fn plain_linear(
        &mut self,
        group: ModuleGroup,
        name: &str,
        [input, output]: [usize; 2],
        bias: bool,
    ) -> Linear {
        let weight = self.weight(
            group,
            &format!("{name}.weight"),
            [input, output],
            Layout::Linear,
        );
        let bias =
            bias.then(|| self.weight(group, &format!("{name}.bias"), [1, output], Layout::Vector));
        Linear {
            name: name.into(),
            weight,
            bias,
            place: None,
        }
    }

    /// A table of rows, looked up by index.
    pub fn table(&mut self, group: ModuleGroup, name: &str, shape: [usize; 2]) -> ParamId {
        self.weight(group, &format!("{name}.weight"), shape, Layout::Plain)
    }

    /// A root-mean-square normalisation.
    pub fn rms_norm(
        &mut self,
        group: ModuleGroup,
        name: &str,
        width: usize,
        epsilon: f64,
    ) -> RmsNorm {
        RmsNorm {
            scale: self.weight(group, &format!("{name}.weight"), [1, width], Layout::Vector),
            epsilon,
        }
    }

    /// A layer normalisation.
    pub fn layer_norm(
        &mut self,
        group: ModuleGroup,
        name: &str,
        width: usize,
        epsilon: f64,
    ) -> LayerNorm {
        let [scale, shift] = ["weight", "bias"].map(|part| {
            let id = self.weight(group, &format!("{name}.{part}"), [1, width], Layout::Vector);
            self.weights[id.0].decay = false;
            id
        });
        LayerNorm {
            scale,
            shift,
            epsilon,
        }
    }

    /// Which weights are quantised: those of the layers that adapters can be on.
    ///
    /// # Errors
    /// As [`Plan::of`].
    pub(crate) fn plan(&self, quantize: Quantize) -> Result<Plan, VlmError> {
        let layers = self.adaptable.iter();
        let layers = layers.map(|each| (&*each.layer.name, each.layer.weight, each.sizes));
        Plan::of(layers, quantize)
    }

    fn weight(
        &mut self,
        group: ModuleGroup,
        name: &str,
        shape: [usize; 2],
        layout: Layout,
    ) -> ParamId {
        self.weights.push(Declared {
            name: name.to_owned(),
            shape,
            layout,
            file_shape: None,
            group,
            decay: names::decays(name),
        });
        ParamId(self.weights.len() - 1)
    }
}

/// A model's weights and the adapters on its layers.
#[derive(Clone)]
pub struct Weights {
    pub(crate) params: ParamSet,
    pub(crate) lora: Option<LoraConfig>,
    /// By [`Linear::place`]: an adapter's `[in, rank]` and `[rank, out]`.
    pub(crate) adapters: Vec<Option<(ParamId, ParamId)>>,
}

impl Weights {
    /// A weight's value.
    pub fn get(&self, id: ParamId) -> &Tensor<2> {
        self.params.get(id)
    }

    /// The factors of a layer's adapter.
    pub(crate) fn adapter(&self, layer: &Linear) -> Option<(&LoraConfig, ParamId, ParamId)> {
        let (a, b) = self.adapters.get(layer.place?).copied().flatten()?;
        Some((self.lora.as_ref()?, a, b))
    }

    /// What dropout of a pass through these layers is drawn from, if any is.
    pub(crate) fn dropout(&self, key: Option<&StreamKey>, layers: &Layers) -> Option<DropoutKeys> {
        let key = key.filter(|_| self.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0))?;
        let all = layers.adaptable.iter().zip(&self.adapters);
        let adapted = all.filter(|(_, adapter)| adapter.is_some());
        let names = adapted.map(|(adaptable, _)| adaptable.layer.name.clone());
        Some(DropoutKeys::new(key, names))
    }

    /// A copy without adapters and with nothing to train; the weights are in memory once.
    pub(crate) fn unadapted(&self) -> Self {
        let mut copy = self.clone();
        copy.lora = None;
        copy.adapters.fill(None);
        // Adapters come after all other weights, whose ids stay as they are.
        copy.params.retain(|param| !names::is_adapter(&param.name));
        for param in copy.params.iter_mut() {
            param.set_trainable(false);
        }
        copy
    }

    /// A copy that tracks no gradients; the weights are in memory once.
    pub(crate) fn without_gradients(&self) -> Self {
        let mut copy = self.clone();
        for param in copy.params.iter_mut() {
            param.value = param.value.clone().inner();
            param.trainable = false;
        }
        copy
    }
}

/// Takes the weights of some groups out of training.
///
/// # Errors
/// As [`lora::freeze`].
pub(crate) fn freeze(
    layers: &Layers,
    weights: &mut Weights,
    groups: &BTreeSet<ModuleGroup>,
) -> Result<(), VlmError> {
    let declared = layers.weights.iter();
    let group_of: HashMap<&str, ModuleGroup> = declared
        .map(|weight| (weight.name.as_str(), weight.group))
        .collect();
    let Weights { params, lora, .. } = weights;
    lora::freeze(params, lora.as_ref(), groups, |param| {
        group_of[param.name.as_str()]
    })
}

/// Where first weights come from.
pub(crate) enum Source<'a> {
    /// A checkpoint.
    Checkpoint(&'a mut Checkpoint),
    /// Random ones: matrices N(0, `std`²), norm scales 1, biases 0, each drawn from the stream of its own name, so that no
    /// draw depends on which other weights there are.
    Random {
        /// Seed of all streams.
        seed: u64,
        /// Standard deviation of a matrix.
        std: &'a dyn Fn(&Declared) -> f64,
    },
}

impl Source<'_> {
    fn values(&mut self, weight: &Declared) -> Result<Vec<f32>, VlmError> {
        let Declared {
            name,
            shape,
            layout,
            ..
        } = weight;
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.take(name, *shape, *layout),
            Self::Random { seed, std } => {
                let count = weight.numbers();
                if *layout == Layout::Vector {
                    let value = if name.ends_with("bias") { 0.0 } else { 1.0 };
                    return Ok(vec![value; count]);
                }
                let (std, key) = (std(weight), StreamKey::new("init", *seed).text(name));
                Ok(key.stream().normals(count, std))
            }
        }
    }
}

/// Makes the declared weights on `device` in the type `dtype`, all trainable; where `plan` quantises some, none is.
pub(crate) fn weights(
    layers: &Layers,
    mut source: Source<'_>,
    device: &Device,
    dtype: DType,
    plan: &Plan,
) -> Result<Weights, VlmError> {
    let mut params = ParamSet::default();
    let device = device.clone().autodiff();
    let trainable = plan.is_empty();
    for (index, weight) in layers.weights.iter().enumerate() {
        let values = source.values(weight)?;
        let value = match plan.bits(ParamId(index)) {
            Some(bits) => quantize::weight(&weight.name, (&values, weight.shape), bits, &device)?,
            None => tensor(values, weight.shape, &device, dtype),
        };
        params.push(Param {
            name: weight.name.clone(),
            value: match trainable {
                true => value.require_grad(),
                false => value,
            },
            trainable,
            decay: weight.decay,
        });
    }
    Ok(Weights {
        params,
        lora: None,
        adapters: vec![None; layers.adaptable.len()],
    })
}

/// A tensor of the type `dtype`.
pub(crate) fn tensor(
    values: Vec<f32>,
    shape: [usize; 2],
    device: &Device,
    dtype: DType,
) -> Tensor<2> {
    let data = match dtype {
        DType::BF16 => {
            // Pixels of a batch are millions.
            let values: Vec<bf16> = values.into_par_iter().map(bf16::from_f32).collect();
            TensorData::new(values, shape)
        }
        _ => TensorData::new(values, shape),
    };
    send(data, (device, dtype))
}

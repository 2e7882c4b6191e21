//! A model's weights: named matrices in a fixed order.

use burn::tensor::{Device, Tensor};

use crate::host::bring;

use crate::quant::is_quantised;

/// One named weight. Vectors are stored as `[1, n]`, so that everything is a matrix.
#[derive(Clone)]
pub struct Param {
    /// Dotted name, as in the weights file: `decoder.blocks.0.attn.qkv.weight`.
    pub name: String,
    /// The value, perhaps [quantised](crate::quant); tracks gradients if `trainable`.
    pub value: Tensor<2>,
    /// Updated by the optimiser.
    pub trainable: bool,
    /// Subject to weight decay (matrices and adapters are; biases and norm scales are not).
    pub decay: bool,
}

/// Index of a [`Param`] in its [`ParamSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(pub usize);

/// All weights of a model in a fixed order.
#[derive(Clone, Default)]
pub struct ParamSet {
    params: Vec<Param>,
}

impl Param {
    /// Lets the optimiser update the weight, or takes it out of its reach. A quantised weight stays out of it.
    pub fn set_trainable(&mut self, trainable: bool) {
        let trainable = trainable && !is_quantised(&self.value);
        self.trainable = trainable;
        let value = match self.value.is_autodiff() {
            true => self.value.clone().inner(),
            false => self.value.clone(),
        };
        self.value = if trainable {
            value.autodiff().require_grad()
        } else {
            value.autodiff()
        };
    }
}

impl ParamSet {
    /// Adds a weight.
    pub fn push(&mut self, param: Param) -> ParamId {
        self.params.push(param);
        ParamId(self.params.len() - 1)
    }

    /// The value of one weight.
    pub fn get(&self, id: ParamId) -> &Tensor<2> {
        &self.params[id.0].value
    }

    /// One weight, to change it.
    pub fn get_mut(&mut self, id: ParamId) -> &mut Param {
        &mut self.params[id.0]
    }

    /// Makes each weight a leaf of its own: gradients of other copies of the set no longer reach it.
    pub fn detach(&mut self) {
        for param in &mut self.params {
            param.set_trainable(param.trainable);
        }
    }

    /// A copy on another device, each weight a leaf of its own. On the same device the weights are in memory once.
    #[must_use]
    pub fn copy_to(&self, device: &Device) -> Self {
        let mut copy = self.clone();
        for param in &mut copy.params {
            param.value = bring(param.value.clone().inner(), device);
            param.set_trainable(param.trainable);
        }
        copy
    }

    /// Takes over what another copy of the set has learnt: the values of the trainable weights.
    ///
    /// # Panics
    /// If the other set has fewer weights.
    pub fn follow(&mut self, other: &Self) {
        for (index, param) in self.params.iter_mut().enumerate() {
            if param.trainable {
                let device = param.value.device();
                param.value = bring(other.params[index].value.clone().inner(), &device);
                param.set_trainable(true);
            }
        }
    }

    /// Keeps the weights that `keep` says; the ids of those after a removed one change.
    pub fn retain(&mut self, keep: impl FnMut(&Param) -> bool) {
        self.params.retain(keep);
    }

    /// How many numbers all weights hold.
    pub fn count(&self) -> usize {
        self.iter()
            .map(|param| param.value.dims().iter().product::<usize>())
            .sum()
    }

    /// All weights, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.params.iter()
    }

    /// All weights, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.params.iter_mut()
    }
}

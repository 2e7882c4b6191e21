//! A model's weights: named matrices in a fixed order.

use burn::tensor::Tensor;

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
        let value = self.value.clone().inner();
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

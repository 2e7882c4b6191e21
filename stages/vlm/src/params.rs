//! A model's weights: named matrices in a fixed order.

use burn::tensor::Tensor;

/// One named weight. Vectors are stored as `[1, n]`, so that everything is a matrix.
#[derive(Clone)]
pub struct Param {
    /// Dotted name, as in the weights file: `decoder.blocks.0.attn.qkv.weight`.
    pub name: String,
    /// The value; tracks gradients if `trainable`.
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

    /// All weights, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.params.iter()
    }

    /// All weights, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.params.iter_mut()
    }
}

//! One step of a forward pass, in numbers that it keeps.

use dcsft_tensor::ops::device::attention::Budget;

use crate::lora::LoraConfig;

/// Rows that one piece of work has in the fused operations; each piece sums weight gradients by itself.
const PIECE: f64 = 128.0;
/// The gradient of a weight of so many values is computed in one pass, without sums by pieces.
const LARGE: f64 = 65536.0;

/// One step of a forward pass, such as a transformer block. All in values, not bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// What goes in: all that gradient checkpointing keeps.
    pub input: f64,
    /// What its operations keep for their backward passes.
    pub kept: f64,
    /// Most that is alive besides in its forward pass.
    pub forward: f64,
    /// Most that is alive besides in its backward pass.
    pub backward: f64,
    /// Weights that it trains.
    pub gradient: f64,
}

/// A linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// Rows of the input.
    pub rows: f64,
    /// Inputs and outputs of a row.
    pub sizes: [f64; 2],
    /// It adds a vector.
    pub bias: bool,
    /// Its weights are trained.
    pub trained: bool,
    /// The adapter on it, and whether its dropout is drawn.
    pub adapter: Option<(&'a LoraConfig, bool)>,
    /// Values that a quantised weight takes whenever it is multiplied with; none of one that is not.
    pub dequantised: f64,
}

/// Attention over packed rows.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Queries, keys and values that go in.
    pub packed: f64,
    /// Weights of all heads: queries times keys.
    pub weights: f64,
    /// What comes out.
    pub mixed: f64,
    /// On the CPU, what is there at its widest beside what goes in and the weights.
    pub beside: f64,
    /// On a GPU weights are computed block by block, and are not kept.
    pub in_blocks: bool,
}

impl Step {
    /// A step on `input` values.
    pub fn on(input: f64) -> Self {
        Self {
            input,
            ..Self::default()
        }
    }

    /// An operation that keeps `values`: its input, where nobody else keeps that, or what it has computed.
    pub fn keep(&mut self, values: f64) {
        self.kept += values;
    }

    /// An operation from `input` to `output` values at the step's widest.
    pub fn widen(&mut self, input: f64, output: f64) {
        self.forward = self.forward.max(input + output);
        self.backward = self.backward.max(input + output);
    }

    /// Attention. What comes out is kept by [`Step::keep`], as the next layer's input.
    pub fn attend(&mut self, attention: Attention) {
        let Attention {
            packed,
            weights,
            mixed,
            beside,
            in_blocks,
        } = attention;
        self.keep(packed);
        if !in_blocks {
            self.keep(weights);
            self.widen(packed + weights, beside);
            return;
        }
        let block = weights.min(Budget::DEFAULT.scores as f64);
        // Scores become weights in place. On the way back the gradients of the weights are there too.
        let (forward, backward) = (block, 2.0 * block);
        // Queries, keys and values are in grids, as what comes out is before it is packed; on the way back their gradients
        // are too.
        self.forward = self.forward.max(packed + forward + 2.0 * mixed);
        self.backward = self.backward.max(3.0 * packed + backward + 2.0 * mixed);
    }

    /// Vectors of norms and biases, or an embedding, of which `values` are trained.
    pub fn train(&mut self, values: f64) {
        self.gradient += values;
    }

    /// A linear layer. Its input is kept by [`Step::keep`], since several layers may share it.
    ///
    /// An adapter keeps its inner values, `rows * rank`, and the places of dropped inputs. On the way back gradients of
    /// weights are summed by pieces of rows, each with sums of its own.
    pub fn linear(&mut self, layer: Linear<'_>) {
        let Linear {
            rows,
            sizes: [input, output],
            ..
        } = layer;
        let (mut sums, mut apart) = (0.0, 0.0);
        if layer.trained {
            let weight = input * output;
            sums += if layer.bias { output } else { 0.0 };
            *(if weight < LARGE {
                &mut sums
            } else {
                &mut apart
            }) += weight;
        }
        if let Some((lora, dropout)) = layer.adapter {
            let rank = lora.rank as f64;
            sums += rank * (input + output);
            self.kept += rows * rank;
            if dropout {
                self.kept += lora.dropout * rows * input;
            }
        }
        self.gradient += sums + apart;
        let pieces = (rows / PIECE).ceil();
        // The pieces' sums, their total, and the total cut into weight, bias and factors.
        let copies = if pieces > 1.0 { pieces + 2.0 } else { 2.0 };
        let activations = rows * (input + output);
        self.forward = self.forward.max(activations + layer.dequantised);
        let backward = activations + layer.dequantised + copies * sums;
        self.backward = self.backward.max(backward);
    }
}

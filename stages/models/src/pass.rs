//! A forward pass as a chain of named steps, which gradient checkpointing can go back through one by one.

use std::sync::Arc;

use burn::tensor::{Gradients, Tensor};
use dcsft_tensor::ops::{self, Activation, Adapter, DropoutKeys};
use dcsft_tensor::params::ParamId;

use crate::modules::{LayerNorm, Linear, RmsNorm, Weights};

/// A model's weights on their way through a batch.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub(crate) weights: &'a Weights,
    /// What dropout is drawn from; none switches it off.
    pub(crate) dropout: Option<&'a DropoutKeys>,
}

/// The rows of an operation's input: whose they are.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Content ID of the sample behind each stretch of rows.
    pub ids: &'a [Arc<str>],
    /// Rows of each stretch.
    pub counts: &'a [usize],
}

impl Rows<'static> {
    /// Nothing is dropped when answers are written, so it does not matter whose a row is.
    pub(crate) const NOBODY: Self = Self {
        ids: &[],
        counts: &[],
    };
}

impl Pass<'_> {
    /// A weight.
    pub fn weight(&self, id: ParamId) -> &Tensor<2> {
        self.weights.get(id)
    }

    /// A linear layer with its adapter.
    pub fn linear(
        &self,
        x: Tensor<2>,
        layer: &Linear,
        rows: Rows<'_>,
        activation: Activation,
    ) -> Tensor<2> {
        let adapter = self.weights.adapter(layer).map(|(lora, a, b)| {
            let keys = self.dropout.filter(|_| lora.dropout > 0.0);
            let width = x.dims()[1];
            let draw = |keys: &DropoutKeys| {
                keys.draw(&layer.name, lora.dropout, rows.ids, rows.counts, width)
            };
            Adapter {
                a: self.weight(a).clone(),
                b: self.weight(b).clone(),
                scale: lora.scale(),
                dropout: keys.map(draw),
            }
        });
        let bias = layer.bias.map(|bias| self.weight(bias));
        ops::linear(
            x,
            self.weight(layer.weight),
            bias,
            adapter.as_ref(),
            activation,
        )
    }

    /// A root-mean-square normalisation.
    pub fn rms_norm(&self, x: Tensor<2>, norm: RmsNorm) -> Tensor<2> {
        ops::rms_norm(x, self.weight(norm.scale), norm.epsilon)
    }

    /// A layer normalisation.
    pub fn layer_norm(&self, x: Tensor<2>, norm: LayerNorm) -> Tensor<2> {
        let (scale, shift) = (self.weight(norm.scale), self.weight(norm.shift));
        ops::layer_norm(x, scale, shift, norm.epsilon)
    }
}

/// What goes from step to step.
#[derive(Clone)]
pub struct Flow {
    /// Rows: patches in the vision tower, tokens in the decoder.
    pub x: Tensor<2>,
    /// What a later step takes besides, first the next.
    pub aside: Vec<Tensor<2>>,
}

impl From<Tensor<2>> for Flow {
    fn from(x: Tensor<2>) -> Self {
        let aside = Vec::new();
        Self { x, aside }
    }
}

impl Flow {
    fn map(self, change: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            x: change(self.x),
            aside: self.aside.into_iter().map(change).collect(),
        }
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor<2>> {
        [&self.x].into_iter().chain(&self.aside)
    }
}

struct Step<'a> {
    /// How the names of its weights begin.
    name: String,
    run: Box<dyn Fn(Flow) -> Flow + 'a>,
    /// Whether it has weights to train.
    trains: bool,
}

/// The steps of a batch, from the first that has something to compute.
pub struct Chain<'a> {
    pass: Pass<'a>,
    steps: Vec<Step<'a>>,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(pass: Pass<'a>) -> Self {
        let steps = Vec::new();
        Self { pass, steps }
    }

    /// A step that turns rows into rows; the names of its weights begin with `name`.
    pub fn step(&mut self, name: impl Into<String>, run: impl Fn(Tensor<2>) -> Tensor<2> + 'a) {
        self.wide_step(name, move |flow| Flow {
            x: run(flow.x),
            aside: flow.aside,
        });
    }

    /// A step that puts something aside for a later one, or takes it.
    pub fn wide_step(&mut self, name: impl Into<String>, run: impl Fn(Flow) -> Flow + 'a) {
        let name = name.into();
        let mut params = self.pass.weights.params.iter();
        let trains = params.any(|param| param.trainable && param.name.starts_with(&name));
        self.steps.push(Step {
            name,
            run: Box::new(run),
            trains,
        });
    }

    /// The last step has weights of other names too: those that it shares with the first.
    pub(crate) fn last_trains(&mut self) {
        if let Some(last) = self.steps.last_mut() {
            last.trains = true;
        }
    }

    /// What leaves the last step, differentiable in all that is trainable.
    pub(crate) fn run(&self, x: Tensor<2>) -> Flow {
        self.steps.iter().fold(x.into(), |x, step| (step.run)(x))
    }

    /// The name of each step with what leaves it.
    pub(crate) fn trace(&self, x: Tensor<2>) -> Vec<(String, Flow)> {
        let mut flow = Flow::from(x);
        let mut trace = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            flow = (step.run)(flow);
            trace.push((step.name.clone(), flow.clone()));
        }
        trace
    }

    /// What leaves the last step as a leaf, and the input of each step.
    pub(crate) fn run_checkpointed(&self, x: Tensor<2>) -> (Tensor<2>, Vec<Flow>) {
        let mut inputs = Vec::with_capacity(self.steps.len());
        let mut flow = Flow::from(x.inner());
        for step in &self.steps {
            inputs.push(flow.clone());
            flow = (step.run)(flow.map(Tensor::autodiff)).map(Tensor::inner);
        }
        (flow.x.autodiff().require_grad(), inputs)
    }

    /// Goes back from the gradient of what left the last step: each step is computed again from its input, and `take` gets
    /// the gradients of its weights.
    pub(crate) fn backward(
        &self,
        mut inputs: Vec<Flow>,
        pull: Tensor<2>,
        take: &mut dyn FnMut(Gradients),
    ) {
        let Some(lowest) = self.steps.iter().position(|step| step.trains) else {
            return;
        };
        // The gradient of each tensor that leaves a step; none where nothing above uses it.
        let mut pulls = vec![Some(pull.inner())];
        for (index, step) in self.steps.iter().enumerate().rev() {
            let Some(input) = inputs.pop() else { return };
            let input = input.map(|x| x.autodiff().require_grad());
            let output = (step.run)(input.clone());
            let sent = output.tensors().zip(pulls);
            let sent = sent.filter_map(|(x, pull)| Some(ops::sent_back(x.clone(), pull?)));
            let Some(sum) = sent.reduce(|sum, next| sum + next) else {
                return;
            };
            let mut gradients = sum.backward();
            pulls = input
                .tensors()
                .map(|x| x.grad_remove(&mut gradients))
                .collect();
            take(gradients);
            if index <= lowest || pulls.iter().all(Option::is_none) {
                return;
            }
        }
    }
}

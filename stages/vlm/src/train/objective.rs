//! What a training run learns from: the part of a trainer that is not the same for all of them.

use burn::tensor::{Device, Tensor};
use dcsft_tensor::ops::{joined, token_logprobs};
use dcsft_tensor::params::ParamSet;
use dcsft_tensor::rng::StreamKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{Example, VisionLanguageModel};
use crate::train::error::TrainError;
use crate::train::team::Team;

/// Where in a run something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The step, counted from 0.
    pub step: usize,
    /// Which of the step's updates, counted from 0.
    pub update: usize,
}

/// What a run learns from. [`Trainer`](crate::train::Trainer) makes its steps:
///
/// 1. [`draw`](Self::draw) decides what the step is about, for example the next samples, or answers that the model gives
///    now;
/// 2. for each update, and each of its [`micro_batches`](Self::micro_batches), the model reads the
///    [`examples`](Self::examples), the [`loss`](Self::loss) is taken on what it makes of them, and differentiated; when all
///    are, what the losses are to be [read for](Loss::record) is read and handed on to [`note`](Self::note);
/// 3. [`record`](Self::record) makes a line of the log of it all.
///
/// Rows are numbered by the objective, from 0 in each step. Whatever it draws at random must be keyed by the step, so that
/// a run that was stopped and restored ends with the same bytes as one that was not.
pub trait Objective: Sync {
    /// Names the objective in a saved state: no other can go on from it.
    const NAME: &'static str;
    /// Its settings, which a run that goes on must have too.
    type Config: Serialize;
    /// What one step is about.
    type Round: Sync;
    /// What is logged of a step. Its `learning_rate` is that of the step's last update; a state is checked by it.
    type Record: Serialize + DeserializeOwned;

    /// The settings.
    fn config(&self) -> &Self::Config;

    /// A digest of the data: a state is not taken up with other data.
    fn data(&self) -> String;

    /// Decides what a step is about.
    ///
    /// # Errors
    /// What the model says, or that there is nothing to learn from.
    fn draw(&mut self, team: Team<'_>, step: usize) -> Result<Self::Round, TrainError>;

    /// The run has further devices, with a copy of the model on each.
    fn spread(&mut self, devices: &[Device], models: &[&dyn VisionLanguageModel]) {
        let _ = (devices, models);
    }

    /// The rows of an update, cut into forward passes; none where there is nothing to learn from.
    fn micro_batches(&self, round: &Self::Round, at: At) -> Vec<Vec<usize>>;

    /// What the model is to read and to answer in these rows.
    ///
    /// # Errors
    /// An image that cannot be had.
    fn examples(
        &self,
        round: &Self::Round,
        at: At,
        rows: &[usize],
    ) -> Result<Vec<Example>, TrainError>;

    /// How many logits are in memory at once where the objective runs the model itself; said before the first step.
    fn set_logits_at_once(&mut self, logits: usize) {
        let _ = logits;
    }

    /// Names the dropout of an update; none trains without.
    fn dropout(&self, at: At) -> Option<StreamKey> {
        let _ = at;
        None
    }

    /// The loss of these rows, as the part that they have in the loss of the whole update. Nothing is to be read back for it:
    /// the device computes on while the next rows are prepared.
    fn loss(&self, round: &Self::Round, at: At, rows: &[usize], seen: &Seen<'_>) -> Loss;

    /// Takes over the values of these rows' [`record`](Loss::record), in the order of the rows; gives the value of their loss.
    fn note(&mut self, round: &mut Self::Round, at: At, rows: &[usize], values: &[f32]) -> f64;

    /// What is logged of a step; `made` holds its updates in order.
    fn record(&mut self, round: Self::Round, made: &[Made]) -> Self::Record;

    /// Weights of the objective's own, which are trained with the model's.
    fn own(&self) -> Option<&ParamSet> {
        None
    }

    /// The same, to change them.
    fn own_mut(&mut self) -> Option<&mut ParamSet> {
        None
    }

    /// Rows of a micro-batch that are worth a thread of their own, where the model can be copied
    /// ([`VisionLanguageModel::twin`]). Where a micro-batch is cut decides the order of its sums.
    fn apart(&self) -> Option<usize> {
        None
    }

    /// What a saved state holds besides weights, optimiser and log.
    fn notes(&self) -> &[u8] {
        &[]
    }

    /// Takes up [`notes`](Self::notes) again.
    fn set_notes(&mut self, notes: Vec<u8>) {
        let _ = notes;
    }
}

/// What the model has made of some rows.
pub struct Seen<'a> {
    /// The rows' examples.
    pub examples: &'a [Example],
    /// Logits that predict each token of the answers: `[tokens of all answers, vocab]`, row after row.
    pub logits: Tensor<2>,
    /// Mean of each row's projected image tokens, `[rows, width]`, where the model gives them.
    pub pooled: Option<Tensor<2>>,
    /// The objective's own weights, as this pass is to see them.
    pub own: Option<&'a ParamSet>,
}

impl Seen<'_> {
    /// The tokens of all answers, row after row.
    pub fn targets(&self) -> Vec<u32> {
        let answers = self.examples.iter();
        answers
            .flat_map(|example| example.answer.iter().copied())
            .collect()
    }

    /// Log-probability of each token of the answers: `[tokens]`.
    pub fn logprobs(&self, temperature: f64) -> Tensor<1> {
        token_logprobs(self.logits.clone(), &self.targets(), temperature)
    }

    /// For each token of the answers its row's number.
    pub fn per_token(&self, of_row: impl Fn(usize) -> f32) -> Vec<f32> {
        let rows = self.examples.iter().enumerate();
        rows.flat_map(|(row, example)| std::iter::repeat_n(of_row(row), example.answer.len()))
            .collect()
    }
}

/// The loss of some rows.
pub struct Loss {
    /// What is differentiated.
    pub tensor: Tensor<1>,
    /// What is read back of it when the update's last gradient is computed.
    pub record: Tensor<1>,
}

impl Loss {
    /// With what is to be read; neither needs to be off the autodiff graph.
    pub fn new(tensor: Tensor<1>, record: Vec<Tensor<1>>) -> Self {
        let plain = |tensor: Tensor<1>| match tensor.is_autodiff() {
            true => tensor.inner(),
            false => tensor,
        };
        Self {
            tensor,
            record: joined(record.into_iter().map(plain).collect(), 0),
        }
    }
}

/// An update that was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Made {
    /// The loss before it.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Its learning rate.
    pub learning_rate: f64,
}

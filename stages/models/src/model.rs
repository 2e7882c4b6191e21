//! A model of any family in Hugging Face's layout, and its forward pass.

use std::sync::Arc;

use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use dcsft_tensor::host::send;
use dcsft_tensor::ops::DropoutKeys;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::generate::Places;
use dcsft_vlm::model::{Below, Example, Forward, Output, Picture, Prompt, RgbImage, Tape};

use crate::batch::{Ask, Batch, Sequence};
use crate::decoder::predictions;
use crate::family::Family;
use crate::lora;
use crate::modules::Weights;
use crate::pass::{Chain, Flow, Pass};
use crate::processor::{Encode, Encoded, Processor};
use crate::registry::Config;
use crate::settings::ModelFiles;

/// A vision-language model of one of the [families](crate::registry::FAMILIES).
#[derive(Clone)]
pub struct HubModel {
    pub(crate) config: Config,
    pub(crate) processor: Arc<Processor>,
    pub(crate) weights: Weights,
    /// Tokens that end an answer.
    pub(crate) stops: Vec<u32>,
    /// Longest sequence, answers included; none for what the configuration allows.
    pub(crate) max_tokens: Option<usize>,
    /// How many prompts are worked on together; none for what suits the device.
    pub(crate) places: Option<Places>,
    /// Where it was read from: a frozen base is copied from there when the model is saved.
    pub(crate) files: ModelFiles,
    /// With autodiff.
    pub(crate) device: Device,
    pub(crate) dtype: DType,
}

impl HubModel {
    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Adds the adapters to the weights.
    pub(crate) fn merge(&mut self) {
        if lora::merge(&self.config.layers, &mut self.weights, self.dtype) {
            self.files.unchanged = false;
        }
    }

    /// Its text and image side.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    pub(crate) fn family(&self) -> &dyn Family {
        &*self.config.family
    }

    /// Tokens that a sequence has room for.
    pub fn context(&self) -> usize {
        let most = self.family().decoder().config.context;
        self.max_tokens.map_or(most, |tokens| tokens.min(most))
    }

    /// Ends answers at these tokens, in the place of those that the checkpoint names.
    pub fn set_stops(&mut self, stops: Vec<u32>) {
        self.stops = stops;
    }

    /// A prompt, encoded, up to where the answer begins.
    ///
    /// # Errors
    /// As [`Processor::encode`].
    pub fn encode(&self, prompt: &Prompt) -> Result<Encoded, VlmError> {
        self.encode_as(prompt, &Encode::PROMPT)
    }

    fn encode_as(&self, prompt: &Prompt, options: &Encode) -> Result<Encoded, VlmError> {
        prompt.validate()?;
        let images = prompt.images.iter();
        let images = images.map(|image| Ok(image.load()?.into_owned()));
        let images: Vec<RgbImage> = images.collect::<Result<_, VlmError>>()?;
        self.processor.encode(&prompt.messages, &images, options)
    }

    /// The token ids of a prompt with the labels that they are, without any pixel.
    pub(crate) fn labels(&self, prompt: &Prompt) -> Result<Vec<Option<u32>>, VlmError> {
        let sizes: Vec<(u32, u32)> = prompt.images.iter().map(Picture::size).collect();
        self.processor
            .labels(&prompt.messages, &sizes, &Encode::TURNS)
    }

    /// Logits of all positions of conversations, packed: `[sum of lengths, vocab]`.
    pub fn logits(&self, sequences: &[Sequence]) -> Tensor<2> {
        let batch = Batch::new(self.family(), sequences, Ask::Everything);
        self.run(&batch, None)
    }

    /// Logits that predict the labels of sequences, and the labels, sequence after sequence.
    pub fn labelled(&self, sequences: &[Sequence], options: &Forward) -> (Output<'_>, Vec<u32>) {
        let mut batch = Batch::new(self.family(), sequences, Ask::Labels);
        let targets = std::mem::take(&mut batch.targets);
        let (logits, tape) = match options.checkpointing {
            false => (self.run(&batch, self.dropout(options).as_ref()), None),
            true => {
                let dropout = self.dropout(options);
                let (logits, tape) = OwnedTape::new(self, batch, dropout, End::Logits);
                (logits, Some(Box::new(tape) as Box<dyn Tape>))
            }
        };
        let output = Output {
            logits,
            pooled: None,
            tape,
        };
        (output, targets)
    }

    /// As [`HubModel::labelled`], up to the output head.
    pub(crate) fn below(&self, sequences: &[Sequence], options: &Forward) -> Below<'_> {
        let batch = Batch::new(self.family(), sequences, Ask::Labels);
        let dropout = self.dropout(options);
        let (rows, tape) = match options.checkpointing {
            false => {
                let pass = pass(&self.weights, dropout.as_ref());
                let chain = chain(self.family(), pass, &batch, End::Rows);
                (chain.run(self.pixels(&batch)).x, None)
            }
            true => {
                let (rows, tape) = OwnedTape::new(self, batch, dropout, End::Rows);
                (rows, Some(Box::new(tape) as Box<dyn Tape>))
            }
        };
        let decoder = self.family().decoder();
        let head = move |rows| decoder.logits(pass(&self.weights, None), rows);
        Below {
            rows,
            head: Box::new(head),
            tape,
        }
    }

    /// Examples as sequences to learn from.
    pub(crate) fn learnt(
        &self,
        batch: &[Example],
        forward: &Forward,
    ) -> Result<Vec<Sequence>, VlmError> {
        if batch.is_empty() {
            return Err(VlmError::Config(
                "a batch needs at least one example".into(),
            ));
        }
        let lora = self.weights.lora.as_ref();
        match forward.dropout {
            // Each example draws its own dropout, so rows of a prompt cannot be shared.
            Some(_) if lora.is_some_and(|lora| lora.dropout > 0.0) => {
                let apart = batch
                    .iter()
                    .map(|example| self.sequences(std::slice::from_ref(example)));
                Ok(apart.collect::<Result<Vec<_>, _>>()?.concat())
            }
            _ => self.sequences(batch),
        }
    }

    /// What leaves each step for some conversations, by the name of the step's module.
    pub fn trace(&self, sequences: &[Sequence]) -> Vec<(String, Flow)> {
        let batch = Batch::new(self.family(), sequences, Ask::Everything);
        let pass = pass(&self.weights, None);
        let chain = chain(self.family(), pass, &batch, End::Logits);
        chain.trace(self.pixels(&batch))
    }

    fn dropout(&self, options: &Forward) -> Option<DropoutKeys> {
        let key = options.dropout.as_ref();
        self.weights.dropout(key, &self.config.layers)
    }

    fn run(&self, batch: &Batch<'_>, dropout: Option<&DropoutKeys>) -> Tensor<2> {
        let pass = pass(&self.weights, dropout);
        let chain = chain(self.family(), pass, batch, End::Logits);
        chain.run(self.pixels(batch)).x
    }

    /// The patches of a batch as the first step takes them; without images a row that nobody looks at.
    pub(crate) fn pixels(&self, batch: &Batch<'_>) -> Tensor<2> {
        match &batch.tower {
            None => send(TensorData::new(vec![0f32], [1, 1]), &self.device),
            Some(tower) => tower.pixels().on(&self.device, self.dtype),
        }
    }

    /// Neighbours that continue the same conversation become one sequence with several answers.
    pub(crate) fn sequences(&self, examples: &[Example]) -> Result<Vec<Sequence>, VlmError> {
        let groups: Vec<&[Example]> = examples
            .chunk_by(|a, b| a.earlier == 0 && b.earlier == 0 && a.prompt.is_same(&b.prompt))
            .collect();
        use rayon::prelude::*;
        groups
            .into_par_iter()
            .map(|group| {
                let prompt = &group[0].prompt;
                let (options, answers): (_, Vec<Arc<[u32]>>) = match group[0].earlier {
                    0 => {
                        let answers = group.iter().map(|example| example.answer.clone());
                        (Encode::PROMPT, answers.collect())
                    }
                    _ => (Encode::TURNS, vec![group[0].last_answer().into()]),
                };
                Ok(Sequence {
                    id: prompt.id.clone(),
                    encoded: Arc::new(self.encode_as(prompt, &options)?),
                    answers,
                })
            })
            .collect()
    }
}

pub(crate) fn pass<'a>(weights: &'a Weights, dropout: Option<&'a DropoutKeys>) -> Pass<'a> {
    Pass { weights, dropout }
}

/// The steps from patches to rows in the order of the sequences.
pub(crate) fn embedding<'a>(
    family: &'a dyn Family,
    pass: Pass<'a>,
    batch: &'a Batch<'a>,
) -> Chain<'a> {
    let mut chain = Chain::new(pass);
    if let Some(tower) = &batch.tower {
        tower.steps(pass, &mut chain);
    }
    family.decoder().embed(pass, batch, &mut chain);
    chain
}

/// Where a chain ends.
#[derive(Clone, Copy)]
enum End {
    Logits,
    /// Where the output head begins, with the rows that predict labels.
    Rows,
}

/// All steps up to an end.
fn chain<'a>(family: &'a dyn Family, pass: Pass<'a>, batch: &'a Batch<'a>, end: End) -> Chain<'a> {
    let mut chain = embedding(family, pass, batch);
    match end {
        End::Logits => family.decoder().steps(pass, batch, &mut chain),
        End::Rows => {
            family.decoder().steps_to_head(pass, batch, &mut chain);
            chain.step("predictions", |x| predictions(x, batch));
        }
    }
    chain
}

/// A tape that owns what it goes back through.
struct OwnedTape<'a> {
    model: &'a HubModel,
    batch: Batch<'a>,
    dropout: Option<DropoutKeys>,
    end: End,
    inputs: Vec<Flow>,
}

impl<'a> OwnedTape<'a> {
    /// Runs the batch up to an end; gives what is there, and the tape to go back from it.
    fn new(
        model: &'a HubModel,
        batch: Batch<'a>,
        dropout: Option<DropoutKeys>,
        end: End,
    ) -> (Tensor<2>, Self) {
        // burn keeps what a tracked pass has recorded until the next backward pass, even once its outputs are gone.
        let plain = model.weights.without_gradients();
        let pass = pass(&plain, dropout.as_ref());
        let chain = chain(model.family(), pass, &batch, end);
        let (last, inputs) = chain.run_checkpointed(model.pixels(&batch));
        drop(chain);
        let tape = Self {
            model,
            batch,
            dropout,
            end,
            inputs,
        };
        (last, tape)
    }
}

impl Tape for OwnedTape<'_> {
    fn backward(self: Box<Self>, pull: Tensor<2>, take: &mut dyn FnMut(Gradients)) {
        let Self {
            model,
            batch,
            dropout,
            end,
            inputs,
        } = *self;
        let pass = pass(&model.weights, dropout.as_ref());
        chain(model.family(), pass, &batch, end).backward(inputs, pull, take);
    }
}

//! The differentiable forward pass.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use dcsft_tensor::ops::{self, Activation, Adapter, Dropout, Heads, Spans};
use dcsft_tensor::params::ParamId;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{Example, Forward, Output};

use super::batch::Batch;
use super::modules::{Block, Linear, Norm};
use super::{MicroVlm, NORM_EPSILON};

/// One forward pass over a batch.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a MicroVlm,
    pub(crate) options: &'a Forward,
}

/// The sequences of a stack of blocks, and whose they are.
pub(crate) struct Sequences<'a> {
    pub(crate) spans: &'a Spans,
    pub(crate) ids: &'a [Arc<str>],
}

pub(super) fn forward(
    model: &MicroVlm,
    examples: &[Example],
    options: &Forward,
) -> Result<Output<'static>, VlmError> {
    if examples.is_empty() {
        return Err(VlmError::Config(
            "a batch needs at least one example".into(),
        ));
    }
    // Answers that share a prompt's rows would share its dropout too.
    let batch = Batch::new(model, examples, options.dropout.is_none())?;
    let pass = Pass { model, options };
    let image = pass.encode(batch.patches.clone(), &batch.image_ids);
    let mut pooled = ops::mean_of_rows(image.clone(), model.config.patches());
    let mut logits = pass.decode(image, &batch);
    if let Some(predictions) = &batch.predictions {
        pooled = ops::take_rows(pooled, &batch.image_of);
        logits = ops::take_rows(logits, predictions);
    }
    Ok(Output {
        logits,
        pooled: Some(pooled),
        tape: None,
    })
}

impl Pass<'_> {
    /// Projected image tokens: `[images * patches, decoder width]`.
    pub(crate) fn encode(&self, patches: Vec<f32>, ids: &[Arc<str>]) -> Tensor<2> {
        let (config, modules) = (&self.model.config, &self.model.modules);
        let per_image = config.patches();
        let spans = Spans::full(ids.len(), per_image);
        let images = Sequences { spans: &spans, ids };
        let data = TensorData::new(patches, [ids.len() * per_image, config.patch_values()]);
        let input = Tensor::from_data(data, &self.model.device);
        let places: Vec<u32> = (0..ids.len()).flat_map(|_| 0..per_image as u32).collect();
        let positions = self.model.params.get(modules.vision_positions).clone();
        let mut x = self.linear(input, &modules.patch, &images, false, Activation::None)
            + ops::take_rows(positions, &places);
        for block in &modules.vision_blocks {
            x = self.block(x, block, &images, config.vision.heads);
        }
        let x = self.norm(x, modules.vision_norm);
        self.linear(x, &modules.projector, &images, false, Activation::None)
    }

    /// Logits of the rows that predict a token of an answer: `[rows, vocab]`.
    fn decode(&self, image: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let modules = &self.model.modules;
        let mut x = self.embed(image, &batch.tokens, &batch.sources, &batch.positions);
        let last = modules.decoder_blocks.len() - 1;
        for (index, block) in modules.decoder_blocks.iter().enumerate() {
            // The last block's other rows serve as keys and values only.
            let spans = if index == last {
                &batch.answer_rows
            } else {
                &batch.all_rows
            };
            x = self.block(
                x,
                block,
                &Sequences {
                    spans,
                    ids: &batch.span_ids,
                },
                self.model.config.decoder.heads,
            );
        }
        self.head(
            x,
            &Sequences {
                spans: &batch.answer_rows,
                ids: &batch.span_ids,
            },
        )
    }

    /// The decoder's input: rows of the image tokens followed by the text's, in the order of `sources`, with
    /// their positions added.
    pub(crate) fn embed(
        &self,
        image: Tensor<2>,
        tokens: &[u32],
        sources: &[u32],
        positions: &[u32],
    ) -> Tensor<2> {
        let modules = &self.model.modules;
        let rows = match tokens.is_empty() {
            true => image,
            false => Tensor::cat(vec![image, self.rows(modules.embedding, tokens)], 0),
        };
        ops::take_rows(rows, sources) + self.rows(modules.positions, positions)
    }

    /// The decoder's input for one text token a row, with their positions added.
    pub(crate) fn embed_text(&self, tokens: &[u32], positions: &[u32]) -> Tensor<2> {
        let modules = &self.model.modules;
        self.rows(modules.embedding, tokens) + self.rows(modules.positions, positions)
    }

    fn rows(&self, table: ParamId, rows: &[u32]) -> Tensor<2> {
        ops::take_rows(self.model.params.get(table).clone(), rows)
    }

    /// Logits of the rows that the sequences ask for.
    pub(crate) fn head(&self, x: Tensor<2>, sequences: &Sequences) -> Tensor<2> {
        let x = self.norm(x, self.model.modules.decoder_norm);
        self.linear(
            x,
            &self.model.modules.head,
            sequences,
            true,
            Activation::None,
        )
    }

    /// A pre-norm block; gives the rows that the sequences ask for.
    fn block(&self, x: Tensor<2>, block: &Block, sequences: &Sequences, heads: usize) -> Tensor<2> {
        let qkv = self.qkv(x.clone(), block, sequences);
        let spans = sequences.spans;
        let x = if spans.outputs() == x.dims()[0] {
            x
        } else {
            ops::take_rows(x, &spans.query_rows())
        };
        self.finish(
            x,
            ops::attention(qkv, spans, Heads::all(heads)),
            block,
            sequences,
        )
    }

    /// The block's queries, keys and values: `[rows, 3 * width]`.
    pub(crate) fn qkv(&self, x: Tensor<2>, block: &Block, sequences: &Sequences) -> Tensor<2> {
        self.linear(
            self.norm(x, block.norm1),
            &block.qkv,
            sequences,
            false,
            Activation::None,
        )
    }

    /// What follows attention, on the rows that the sequences ask for.
    pub(crate) fn finish(
        &self,
        x: Tensor<2>,
        mixed: Tensor<2>,
        block: &Block,
        sequences: &Sequences,
    ) -> Tensor<2> {
        let x = x + self.linear(mixed, &block.out, sequences, true, Activation::None);
        let hidden = self.norm(x.clone(), block.norm2);
        let hidden = self.linear(hidden, &block.fc1, sequences, true, Activation::Gelu);
        x + self.linear(hidden, &block.fc2, sequences, true, Activation::None)
    }

    fn norm(&self, x: Tensor<2>, norm: Norm) -> Tensor<2> {
        let params = &self.model.params;
        let (scale, shift) = (params.get(norm.scale), params.get(norm.shift));
        ops::layer_norm(x, scale, shift, NORM_EPSILON)
    }

    /// A linear layer with its adapter. `asked`: the rows of `x` are those that the sequences ask for, not all.
    fn linear(
        &self,
        x: Tensor<2>,
        layer: &Linear,
        sequences: &Sequences,
        asked: bool,
        activation: Activation,
    ) -> Tensor<2> {
        let params = &self.model.params;
        let adapter = layer
            .adapter
            .zip(self.model.lora.as_ref())
            .map(|((a, b), lora)| {
                let key = self.options.dropout.as_ref().filter(|_| lora.dropout > 0.0);
                let rows = sequences
                    .ids
                    .iter()
                    .zip(sequences.spans.iter())
                    .map(|(id, span)| {
                        let rows = if asked {
                            span.queries.len()
                        } else {
                            span.own.len()
                        };
                        (&**id, rows)
                    });
                Adapter {
                    a: params.get(a).clone(),
                    b: params.get(b).clone(),
                    scale: lora.scale(),
                    dropout: key.map(|key| {
                        Dropout::draw(key, &layer.name, lora.dropout, rows, x.dims()[1])
                    }),
                }
            });
        ops::linear(
            x,
            params.get(layer.weight),
            Some(params.get(layer.bias)),
            adapter.as_ref(),
            activation,
        )
    }
}

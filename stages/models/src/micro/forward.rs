//! The differentiable forward pass.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use dcsft_tensor::ops::{self, Activation, DropoutKeys, Heads, Spans};
use dcsft_tensor::params::ParamId;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{Example, Forward, Output};

use super::MicroVlm;
use super::batch::Batch;
use super::image;
use super::modules::Block;
use crate::modules::Linear;
use crate::pass::{Pass, Rows};

/// The model's layers in one pass.
pub(super) struct Net<'a> {
    model: &'a MicroVlm,
    pass: Pass<'a>,
}

/// The sequences of a stack of blocks, and whose they are.
pub(super) struct Sequences<'a> {
    spans: &'a Spans,
    ids: &'a [Arc<str>],
    /// Rows that each has, and those that are asked for.
    counts: [Vec<usize>; 2],
}

impl<'a> Sequences<'a> {
    pub(super) fn new(spans: &'a Spans, ids: &'a [Arc<str>]) -> Self {
        let own = spans.iter().map(|span| span.own.len()).collect();
        let asked = spans.iter().map(|span| span.queries.len()).collect();
        Self {
            spans,
            ids,
            counts: [own, asked],
        }
    }

    /// All rows.
    fn given(&self) -> Rows<'_> {
        self.rows(0)
    }

    /// The rows that are asked for.
    fn asked(&self) -> Rows<'_> {
        self.rows(1)
    }

    fn rows(&self, which: usize) -> Rows<'_> {
        Rows {
            ids: self.ids,
            counts: &self.counts[which],
        }
    }
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
    let key = options.dropout.as_ref();
    let dropout = model.weights.dropout(key, &model.layers);
    let net = Net::new(model, dropout.as_ref());
    let image = net.encode(batch.patches.clone(), &batch.image_ids);
    let mut pooled = ops::mean_of_rows(image.clone(), model.config.patches());
    let mut logits = net.decode(image, &batch);
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

impl<'a> Net<'a> {
    pub(super) fn new(model: &'a MicroVlm, dropout: Option<&'a DropoutKeys>) -> Self {
        let weights = &model.weights;
        Self {
            model,
            pass: Pass { weights, dropout },
        }
    }

    /// Projected image tokens: `[images * patches, decoder width]`.
    pub(super) fn encode(&self, patches: Vec<u8>, ids: &[Arc<str>]) -> Tensor<2> {
        let (config, modules) = (&self.model.config, &self.model.modules);
        let per_image = config.patches();
        let spans = Spans::full(ids.len(), per_image);
        let images = Sequences::new(&spans, ids);
        let input = image::pixels(patches, config.patch_size).on(&self.model.device, DType::F32);
        let places: Vec<u32> = (0..ids.len()).flat_map(|_| 0..per_image as u32).collect();
        let positions = self.pass.weight(modules.vision_positions).clone();
        let mut x =
            self.linear(input, &modules.patch, images.given()) + ops::take_rows(positions, &places);
        for block in &modules.vision_blocks {
            x = self.block(x, block, &images, config.vision.heads);
        }
        let x = self.pass.layer_norm(x, modules.vision_norm);
        self.linear(x, &modules.projector, images.given())
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
            let sequences = Sequences::new(spans, &batch.span_ids);
            x = self.block(x, block, &sequences, self.model.config.decoder.heads);
        }
        self.head(x)
    }

    /// The decoder's input: rows of the image tokens followed by the text's, in the order of `sources`, with
    /// their positions added.
    pub(super) fn embed(
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
    pub(super) fn embed_text(&self, tokens: &[u32], positions: &[u32]) -> Tensor<2> {
        let modules = &self.model.modules;
        self.rows(modules.embedding, tokens) + self.rows(modules.positions, positions)
    }

    fn rows(&self, table: ParamId, rows: &[u32]) -> Tensor<2> {
        ops::take_rows(self.pass.weight(table).clone(), rows)
    }

    /// Logits of rows of the last block.
    pub(super) fn head(&self, x: Tensor<2>) -> Tensor<2> {
        let modules = &self.model.modules;
        let x = self.pass.layer_norm(x, modules.decoder_norm);
        self.linear(x, &modules.head, Rows::NOBODY)
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
    pub(super) fn qkv(&self, x: Tensor<2>, block: &Block, sequences: &Sequences) -> Tensor<2> {
        let x = self.pass.layer_norm(x, block.norm1);
        self.linear(x, &block.qkv, sequences.given())
    }

    /// What follows attention, on the rows that the sequences ask for.
    pub(super) fn finish(
        &self,
        x: Tensor<2>,
        mixed: Tensor<2>,
        block: &Block,
        sequences: &Sequences,
    ) -> Tensor<2> {
        let rows = sequences.asked();
        let x = x + self.linear(mixed, &block.out, rows);
        let hidden = self.pass.layer_norm(x.clone(), block.norm2);
        let hidden = self.pass.linear(hidden, &block.fc1, rows, Activation::Gelu);
        x + self.linear(hidden, &block.fc2, rows)
    }

    fn linear(&self, x: Tensor<2>, layer: &Linear, rows: Rows<'_>) -> Tensor<2> {
        self.pass.linear(x, layer, rows, Activation::None)
    }
}

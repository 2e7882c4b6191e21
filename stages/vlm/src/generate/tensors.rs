//! The micro VLM's inference as tensor operations, with a cache of keys and values, for any device.

use std::ops::Range;
use std::sync::Arc;

use super::{Decoder, Step};
use crate::error::VlmError;
use crate::micro::{MicroVlm, Pass, Sequences};
use crate::model::Forward;
use crate::ops::{self, Heads, KvCache, Span, Spans};
use crate::weights;

/// Decodes one group of prompts with a model whose adapters are merged.
pub(super) struct TensorDecoder<'a> {
    model: &'a MicroVlm,
    options: Forward,
    /// One image per prompt.
    patches: Vec<f32>,
    /// The prompts' tokens.
    tokens: &'a [Vec<u32>],
    layers: Vec<KvCache>,
}

impl<'a> TensorDecoder<'a> {
    pub(super) fn new(model: &'a MicroVlm, patches: Vec<f32>, tokens: &'a [Vec<u32>]) -> Self {
        Self {
            model,
            options: Forward::default(),
            patches,
            tokens,
            layers: Vec::new(),
        }
    }

    fn pass(&self) -> Pass<'_> {
        Pass {
            model: self.model,
            options: &self.options,
        }
    }

    fn heads(&self) -> Heads {
        Heads::all(self.model.config().decoder.heads)
    }
}

impl Decoder for TensorDecoder<'_> {
    fn start(&mut self) -> Result<Vec<f32>, VlmError> {
        let (patches, prompts) = (std::mem::take(&mut self.patches), self.tokens);
        let (config, modules) = (self.model.config(), self.model.modules());
        let per_image = config.patches();
        let ids: Vec<Arc<str>> = prompts.iter().map(|_| "".into()).collect();
        let image_rows = per_image * prompts.len();
        let tokens: Vec<u32> = prompts.concat();
        let (mut sources, mut positions, mut text) = (Vec::new(), Vec::new(), image_rows as u32);
        let mut rows = Vec::with_capacity(prompts.len());
        for (index, prompt) in prompts.iter().enumerate() {
            let start = sources.len();
            sources.extend((index * per_image..(index + 1) * per_image).map(|row| row as u32));
            sources.extend(text..text + prompt.len() as u32);
            text += prompt.len() as u32;
            positions.extend(0..(sources.len() - start) as u32);
            rows.push(start..sources.len());
        }
        let spans = |last: bool| {
            let span = |own: &Range<usize>| {
                let queries = if last {
                    own.end - 1..own.end
                } else {
                    own.clone()
                };
                Span {
                    prefix: 0..0,
                    own: own.clone(),
                    queries,
                    causal: true,
                }
            };
            Spans::new(rows.iter().map(span).collect())
        };
        let pass = self.pass();
        let mut x = pass.embed(
            Some(pass.encode(patches, &ids)),
            &tokens,
            &sources,
            &positions,
        );
        let mut layers = Vec::with_capacity(modules.decoder_blocks.len());
        for (index, block) in modules.decoder_blocks.iter().enumerate() {
            let spans = spans(index + 1 == modules.decoder_blocks.len());
            let sequences = Sequences {
                spans: &spans,
                ids: &ids,
            };
            let qkv = pass.qkv(x.clone(), block, &sequences);
            layers.push(KvCache::new(&qkv, &rows, self.heads()));
            let mixed = ops::attention(qkv, &spans, self.heads());
            x = pass.finish(
                ops::take_rows(x, &spans.query_rows()),
                mixed,
                block,
                &sequences,
            );
        }
        let logits = pass.head(
            x,
            &Sequences {
                spans: &spans(true),
                ids: &ids,
            },
        );
        self.layers = layers;
        weights::values(&logits)
    }

    fn step(&mut self, steps: &[Step]) -> Result<Vec<f32>, VlmError> {
        let mut layers = std::mem::take(&mut self.layers);
        let tokens: Vec<u32> = steps.iter().map(|step| step.token).collect();
        let sources: Vec<u32> = (0..steps.len() as u32).collect();
        let positions: Vec<u32> = steps.iter().map(|step| step.position as u32).collect();
        let pass = self.pass();
        // Nothing is dropped here, so it does not matter whose a row is.
        let spans = Spans::new(Vec::new());
        let sequences = Sequences {
            spans: &spans,
            ids: &[],
        };
        let mut x = pass.embed(None, &tokens, &sources, &positions);
        for (block, cache) in self.model.modules().decoder_blocks.iter().zip(&mut layers) {
            let qkv = pass.qkv(x.clone(), block, &sequences);
            x = pass.finish(x, cache.step(qkv, steps), block, &sequences);
        }
        let logits = weights::values(&pass.head(x, &sequences));
        self.layers = layers;
        logits
    }
}

//! The micro VLM's inference as tensor operations, with a cache of keys and values, for any device.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;

use super::{Decoder, Step};
use crate::micro::{MicroVlm, Pass, Sequences};
use crate::model::Forward;
use crate::ops::{self, Heads, Span, Spans};
use crate::weights::Matrix;

/// Decodes one group of prompts with a model whose adapters are merged.
pub(super) struct TensorDecoder<'a> {
    model: &'a MicroVlm,
    options: Forward,
    /// One image per prompt.
    patches: Vec<f32>,
    /// The prompts' tokens.
    tokens: &'a [Vec<u32>],
    /// Queries, keys and values of every row so far, per layer: `[rows, 3 * width]`.
    cache: Vec<Tensor<2>>,
    /// Rows of each prompt in the cache, its image included.
    prompts: Vec<Range<usize>>,
    /// Rows of each answer in the cache.
    answers: BTreeMap<usize, Vec<u32>>,
    /// Rows in the cache.
    rows: usize,
}

impl<'a> TensorDecoder<'a> {
    pub(super) fn new(model: &'a MicroVlm, patches: Vec<f32>, tokens: &'a [Vec<u32>]) -> Self {
        let (cache, prompts, answers) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self {
            model,
            options: Forward::default(),
            patches,
            tokens,
            cache,
            prompts,
            answers,
            rows: 0,
        }
    }

    fn pass(&self) -> Pass<'_> {
        Pass {
            model: self.model,
            options: &self.options,
        }
    }

    /// The rows that a step attends to, prompts first, and its spans over them; one row is asked for per step.
    fn gather(&self, steps: &[Step]) -> (Vec<u32>, Spans) {
        let prompt_rows = self.prompts.last().map_or(0, |rows| rows.end);
        let mut rows: Vec<u32> = (0..prompt_rows as u32).collect();
        let mut spans = Vec::with_capacity(steps.len());
        for step in steps {
            let start = rows.len();
            rows.extend(self.answers.get(&step.slot).into_iter().flatten());
            let end = rows.len();
            spans.push(Span {
                prefix: self.prompts[step.prompt].clone(),
                own: start..end,
                queries: end - 1..end,
                causal: true,
            });
        }
        (rows, Spans::new(spans))
    }
}

impl Decoder for TensorDecoder<'_> {
    fn start(&mut self) -> Vec<f32> {
        let (patches, prompts) = (std::mem::take(&mut self.patches), self.tokens);
        let (config, modules) = (self.model.config(), self.model.modules());
        let per_image = config.patches();
        let ids: Vec<Arc<str>> = prompts.iter().map(|_| "".into()).collect();
        let image_rows = per_image * prompts.len();
        let tokens: Vec<u32> = prompts.concat();
        let (mut sources, mut positions, mut text) = (Vec::new(), Vec::new(), image_rows as u32);
        for (index, prompt) in prompts.iter().enumerate() {
            let start = sources.len();
            sources.extend((index * per_image..(index + 1) * per_image).map(|row| row as u32));
            sources.extend(text..text + prompt.len() as u32);
            text += prompt.len() as u32;
            positions.extend(0..(sources.len() - start) as u32);
            self.prompts.push(start..sources.len());
        }
        self.rows = sources.len();
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
            Spans::new(self.prompts.iter().map(span).collect())
        };
        let pass = self.pass();
        let mut x = pass.embed(
            Some(pass.encode(patches, &ids)),
            &tokens,
            &sources,
            &positions,
        );
        let mut cache = Vec::with_capacity(modules.decoder_blocks.len());
        for (index, block) in modules.decoder_blocks.iter().enumerate() {
            let spans = spans(index + 1 == modules.decoder_blocks.len());
            let sequences = Sequences {
                spans: &spans,
                ids: &ids,
            };
            let qkv = pass.qkv(x.clone(), block, &sequences);
            let mixed = ops::attention(qkv.clone(), &spans, Heads::all(config.decoder.heads));
            x = pass.finish(
                ops::take_rows(x, &spans.query_rows()),
                mixed,
                block,
                &sequences,
            );
            cache.push(qkv);
        }
        let logits = pass.head(
            x,
            &Sequences {
                spans: &spans(true),
                ids: &ids,
            },
        );
        self.cache = cache;
        Matrix::from_tensor(&logits).values
    }

    fn step(&mut self, steps: &[Step]) -> Vec<f32> {
        for step in steps {
            self.answers
                .entry(step.slot)
                .or_default()
                .push(self.rows as u32);
            self.rows += 1;
        }
        let (rows, spans) = self.gather(steps);
        let tokens: Vec<u32> = steps.iter().map(|step| step.token).collect();
        let sources: Vec<u32> = (0..steps.len() as u32).collect();
        let positions: Vec<u32> = steps.iter().map(|step| step.position as u32).collect();
        let pass = self.pass();
        let sequences = Sequences {
            spans: &spans,
            ids: &[],
        };
        let mut x = pass.embed(None, &tokens, &sources, &positions);
        let mut cache = Vec::with_capacity(self.cache.len());
        for (block, before) in self.model.modules().decoder_blocks.iter().zip(&self.cache) {
            let qkv = pass.qkv(x.clone(), block, &sequences);
            let all = Tensor::cat(vec![before.clone(), qkv], 0);
            let seen = ops::take_rows(all.clone(), &rows);
            let mixed = ops::attention(seen, &spans, Heads::all(self.model.config().decoder.heads));
            x = pass.finish(x, mixed, block, &sequences);
            cache.push(all);
        }
        let logits = Matrix::from_tensor(&pass.head(x, &sequences)).values;
        self.cache = cache;
        logits
    }
}

//! The micro VLM's inference on slices, with a cache of keys and values.

mod layers;

use std::ops::Range;

use super::{Decoder, Step};

use crate::error::VlmError;
use crate::kernels::{self, Left, add_product};
use crate::micro::MicroVlm;
use crate::ops::{Heads, Span, Spans};

use layers::{HostBlock, HostLinear, HostNorm, Reader, add};

/// A copy of the weights on the host, adapters merged.
pub(super) struct HostModel {
    patches: usize,
    positions_count: usize,
    patch: HostLinear,
    vision_positions: Vec<f32>,
    vision_blocks: Vec<HostBlock>,
    vision_heads: usize,
    vision_norm: HostNorm,
    projector: HostLinear,
    width: usize,
    embedding: Vec<f32>,
    positions: Vec<f32>,
    blocks: Vec<HostBlock>,
    heads: usize,
    norm: HostNorm,
    head: HostLinear,
}

/// Keys and values of the prompts of a group, images included.
struct PrefixCache {
    /// `[layer][prompt]`.
    layers: Vec<Vec<PrefixLayer>>,
}

/// Keys and values of one prompt in one layer.
struct PrefixLayer {
    rows: usize,
    /// `[heads, head width, rows]`.
    keys: Vec<f32>,
    /// `[heads, rows, head width]`.
    values: Vec<f32>,
}

/// Keys and values of the answers of a group, as far as they are written.
struct Cache {
    /// Positions there is room for in each answer.
    room: usize,
    /// `[layer]`, each `[slots, room, keys and values of the width]`.
    layers: Vec<Vec<f32>>,
}

/// Decodes one group of prompts.
pub(super) struct HostDecoder<'a> {
    model: &'a HostModel,
    patches: Vec<f32>,
    prompts: &'a [Vec<u32>],
    prefix: PrefixCache,
    cache: Cache,
}

impl<'a> HostDecoder<'a> {
    /// `patches` holds one image per prompt; `slots` answers will be written.
    pub(super) fn new(
        model: &'a HostModel,
        patches: Vec<f32>,
        prompts: &'a [Vec<u32>],
        slots: usize,
    ) -> Self {
        Self {
            model,
            patches,
            prompts,
            prefix: PrefixCache { layers: Vec::new() },
            cache: Cache::new(model, slots),
        }
    }
}

impl Decoder for HostDecoder<'_> {
    fn start(&mut self) -> Result<Vec<f32>, VlmError> {
        let (prefix, logits) = self.model.prefill(&self.patches, self.prompts);
        self.prefix = prefix;
        Ok(logits)
    }

    fn step(&mut self, steps: &[Step]) -> Result<Vec<f32>, VlmError> {
        Ok(self.model.step(&self.prefix, &mut self.cache, steps))
    }
}

impl HostModel {
    /// Copies a model whose adapters are merged.
    pub(super) fn new(merged: &MicroVlm) -> Result<Self, VlmError> {
        let (config, modules) = (merged.config(), merged.modules());
        let reader = Reader(merged);
        Ok(Self {
            patches: config.patches(),
            positions_count: config.positions(),
            patch: reader.linear(&modules.patch)?,
            vision_positions: reader.values(modules.vision_positions)?,
            vision_blocks: modules
                .vision_blocks
                .iter()
                .map(|block| reader.block(block))
                .collect::<Result<_, _>>()?,
            vision_heads: config.vision.heads,
            vision_norm: reader.norm(modules.vision_norm)?,
            projector: reader.linear(&modules.projector)?,
            width: config.decoder.width,
            embedding: reader.values(modules.embedding)?,
            positions: reader.values(modules.positions)?,
            blocks: modules
                .decoder_blocks
                .iter()
                .map(|block| reader.block(block))
                .collect::<Result<_, _>>()?,
            heads: config.decoder.heads,
            norm: reader.norm(modules.decoder_norm)?,
            head: reader.linear(&modules.head)?,
        })
    }

    /// Keys and values of the prompts, and the logits of their first answer tokens.
    fn prefill(&self, patches: &[f32], prompts: &[Vec<u32>]) -> (PrefixCache, Vec<f32>) {
        let image = self.encode(patches, prompts.len());
        let width = self.width;
        let mut x = Vec::new();
        let mut rows = Vec::with_capacity(prompts.len());
        for (image, tokens) in image.chunks_exact(self.patches * width).zip(prompts) {
            let start = x.len() / width;
            x.extend_from_slice(image);
            for &token in tokens {
                x.extend_from_slice(&self.embedding[token as usize * width..][..width]);
            }
            rows.push(start..x.len() / width);
            add(&mut x[start * width..], &self.positions);
        }
        let mut cache = PrefixCache {
            layers: Vec::with_capacity(self.blocks.len()),
        };
        for (index, block) in self.blocks.iter().enumerate() {
            let last = index + 1 == self.blocks.len();
            let qkv = block.qkv.apply(&block.norm1.apply(&x));
            cache.layers.push(
                rows.iter()
                    .map(|rows| self.prefix_layer(&qkv, rows))
                    .collect(),
            );
            let spans: Vec<Span> = rows
                .iter()
                .map(|rows| {
                    let queries = if last {
                        rows.end - 1..rows.end
                    } else {
                        rows.clone()
                    };
                    Span {
                        prefix: 0..0,
                        own: rows.clone(),
                        queries,
                        causal: true,
                    }
                })
                .collect();
            if last {
                // Only the last row of a prompt is needed from here on.
                x = rows
                    .iter()
                    .flat_map(|rows| &x[(rows.end - 1) * width..rows.end * width])
                    .copied()
                    .collect();
            }
            let mixed = attend_all(&qkv, width, self.heads, &spans);
            block.finish(&mut x, &mixed);
        }
        (cache, self.head.apply(&self.norm.apply(&x)))
    }

    /// Projected image tokens: `[prompts * patches, width]`.
    fn encode(&self, patches: &[f32], count: usize) -> Vec<f32> {
        let width = self.vision_positions.len() / self.patches;
        let mut x = self.patch.apply(patches);
        for image in x.chunks_exact_mut(self.patches * width) {
            add(image, &self.vision_positions);
        }
        let spans: Vec<Span> = Spans::full(count, self.patches).iter().cloned().collect();
        for block in &self.vision_blocks {
            let qkv = block.qkv.apply(&block.norm1.apply(&x));
            let mixed = attend_all(&qkv, width, self.vision_heads, &spans);
            block.finish(&mut x, &mixed);
        }
        self.projector.apply(&self.vision_norm.apply(&x))
    }

    fn prefix_layer(&self, qkv: &[f32], rows: &Range<usize>) -> PrefixLayer {
        let (width, head) = (self.width, self.width / self.heads);
        let part = |index: usize, part: usize| {
            let columns = part * width + index * head;
            rows.clone()
                .flat_map(move |row| &qkv[row * 3 * width + columns..][..head])
                .copied()
        };
        let keys = (0..self.heads)
            .flat_map(|index| kernels::transpose(&part(index, 1).collect::<Vec<f32>>(), head));
        let keys = keys.collect();
        let values = (0..self.heads).flat_map(|index| part(index, 2)).collect();
        PrefixLayer {
            rows: rows.len(),
            keys,
            values,
        }
    }

    /// As [`Decoder::step`].
    fn step(&self, prefix: &PrefixCache, cache: &mut Cache, steps: &[Step]) -> Vec<f32> {
        let width = self.width;
        let mut x = Vec::with_capacity(steps.len() * width);
        for step in steps {
            let start = x.len();
            x.extend_from_slice(&self.embedding[step.token as usize * width..][..width]);
            add(&mut x[start..], &self.positions[step.position * width..]);
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let qkv = block.qkv.apply(&block.norm1.apply(&x));
            let prefix = &prefix.layers[index];
            for (step, qkv) in steps.iter().zip(qkv.chunks_exact(3 * width)) {
                let written = step.position - prefix[step.prompt].rows;
                cache.store(index, step.slot, written, &qkv[width..]);
            }
            let mut mixed = vec![0.0; steps.len() * width];
            let mut start = 0;
            for steps in steps.chunk_by(|a, b| a.prompt == b.prompt) {
                let end = start + steps.len();
                self.attend_step(
                    &qkv[start * 3 * width..end * 3 * width],
                    &prefix[steps[0].prompt],
                    cache,
                    index,
                    steps,
                    &mut mixed[start * width..end * width],
                );
                start = end;
            }
            block.finish(&mut x, &mixed);
        }
        self.head.apply(&self.norm.apply(&x))
    }

    /// Attention of the answers of one prompt: over the prompt's keys, then over each answer's own.
    fn attend_step(
        &self,
        qkv: &[f32],
        prefix: &PrefixLayer,
        cache: &Cache,
        layer: usize,
        steps: &[Step],
        out: &mut [f32],
    ) {
        let (width, head) = (self.width, self.width / self.heads);
        let scale = 1.0 / (head as f32).sqrt();
        let row = prefix.rows + cache.room;
        let mut scores = vec![0.0; steps.len() * row];
        for index in 0..self.heads {
            scores.fill(0.0);
            let queries = Left {
                values: &qkv[index * head..],
                row: 3 * width,
                inner: 1,
            };
            let keys = &prefix.keys[index * head * prefix.rows..];
            add_product(
                steps.len(),
                head,
                prefix.rows,
                queries,
                keys,
                prefix.rows,
                &mut scores,
                row,
            );
            for (which, step) in steps.iter().enumerate() {
                let written = step.position - prefix.rows + 1;
                let scores = &mut scores[which * row..which * row + prefix.rows + written];
                let query = &qkv[which * 3 * width + index * head..][..head];
                let keys = &cache.of(layer, step.slot, width)[index * head..];
                kernels::dot_rows(query, keys, 2 * width, &mut scores[prefix.rows..]);
                kernels::softmax_row(scores, scale);
            }
            let weights = Left {
                values: &scores,
                row,
                inner: 1,
            };
            let values = &prefix.values[index * prefix.rows * head..];
            let columns = &mut out[index * head..];
            add_product(
                steps.len(),
                prefix.rows,
                head,
                weights,
                values,
                head,
                columns,
                width,
            );
            for (which, step) in steps.iter().enumerate() {
                let written = step.position - prefix.rows + 1;
                let own = &scores[which * row + prefix.rows..][..written];
                let values = &cache.of(layer, step.slot, width)[width + index * head..];
                kernels::add_weighted_rows(
                    own,
                    values,
                    2 * width,
                    &mut columns[which * width..][..head],
                );
            }
        }
    }
}

impl Cache {
    /// Room for `slots` answers.
    fn new(model: &HostModel, slots: usize) -> Self {
        let room = model.positions_count - model.patches;
        let size = slots * room * 2 * model.width;
        Self {
            room,
            layers: model.blocks.iter().map(|_| vec![0.0; size]).collect(),
        }
    }

    /// Stores one position's keys and values.
    fn store(&mut self, layer: usize, slot: usize, position: usize, key_and_value: &[f32]) {
        let size = key_and_value.len();
        let start = (slot * self.room + position) * size;
        self.layers[layer][start..start + size].copy_from_slice(key_and_value);
    }

    /// The keys and values of one answer, `[room, keys and values of the width]`.
    fn of(&self, layer: usize, slot: usize, width: usize) -> &[f32] {
        let size = self.room * 2 * width;
        &self.layers[layer][slot * size..(slot + 1) * size]
    }
}

fn attend_all(qkv: &[f32], width: usize, heads: usize, spans: &[Span]) -> Vec<f32> {
    let queries: usize = spans.iter().map(|span| span.queries.len()).sum();
    let mut out = vec![0.0; queries * width];
    let mut rest = &mut out[..];
    for span in spans {
        let (own, after) = rest.split_at_mut(span.queries.len() * width);
        let mut weights = vec![0.0; heads * span.queries.len() * span.keys()];
        kernels::attend(qkv, 3 * width, Heads::all(heads), span, own, &mut weights);
        rest = after;
    }
    out
}

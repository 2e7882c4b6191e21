//! Writing answers: images and prompts are encoded once, and their keys and values are shared by all answers to them.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use dcsft_tensor::ops::{self, Continuation, Heads, KvCache, Span, Spans};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::generate::{Asked, Decoder, Step, Vocabulary, write};
use dcsft_vlm::model::{Completion, Prompt, Sampling, VisionLanguageModel as _};
use rayon::prelude::*;

use super::MicroVlm;
use super::forward::{Net, Sequences};

/// Prompts that are worked on together; the answers do not depend on it.
pub(super) const GROUP: usize = 8;
/// Prompts in one call: enough groups for many threads.
pub(super) const AT_ONCE: usize = 256;

pub(super) fn generate(
    model: &MicroVlm,
    prompts: &[Prompt],
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    let tokens = prompt_tokens(model, prompts, sampling)?;
    let model = model.plain();
    let vocabulary = Vocabulary {
        size: model.tokenizer().vocab_size(),
        stops: std::slice::from_ref(&model.eos),
    };
    let answer = |(prompts, tokens)| {
        let mut decoder = MicroDecoder::new(&model, patches(&model, prompts)?, tokens);
        let asked = asked(&model, prompts, tokens);
        write(
            &mut decoder,
            &vocabulary,
            &asked,
            generations.clone(),
            sampling,
        )
    };
    let groups: Vec<(&[Prompt], &[Vec<u32>])> =
        prompts.chunks(GROUP).zip(tokens.chunks(GROUP)).collect();
    let answers: Result<Vec<_>, VlmError> = match model.on_host() {
        true => groups.into_par_iter().map(answer).collect(),
        false => groups.into_iter().map(answer).collect(),
    };
    Ok(answers?.into_iter().flatten().collect())
}

fn patches(model: &MicroVlm, prompts: &[Prompt]) -> Result<Vec<f32>, VlmError> {
    let mut patches = Vec::new();
    for prompt in prompts {
        patches.extend(model.patches(model.image(prompt)?.load()?.as_ref())?);
    }
    Ok(patches)
}

fn asked<'a>(model: &MicroVlm, prompts: &'a [Prompt], tokens: &'a [Vec<u32>]) -> Vec<Asked<'a>> {
    let asked = |(prompt, tokens): (&'a Prompt, &'a Vec<u32>)| {
        let position = model.config().patches() + tokens.len();
        Asked {
            id: &prompt.id,
            tokens,
            position,
            room: model.config().positions() + 1 - position,
        }
    };
    prompts.iter().zip(tokens).map(asked).collect()
}

/// The prompts' tokens, once it is sure that everything fits.
fn prompt_tokens(
    model: &MicroVlm,
    prompts: &[Prompt],
    sampling: &Sampling,
) -> Result<Vec<Vec<u32>>, VlmError> {
    sampling.validate()?;
    let eos = model.tokenizer().eos();
    let mut tokens = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        prompt.validate()?;
        tokens.push(model.prompt_tokens(prompt, &[eos])?);
    }
    Ok(tokens)
}

/// Decodes one group of prompts with a model whose adapters are model.
struct MicroDecoder<'a> {
    model: &'a MicroVlm,
    /// One image per prompt.
    patches: Vec<f32>,
    /// The prompts' tokens.
    tokens: &'a [Vec<u32>],
    /// Keys and values, once the prompts are encoded.
    cache: Option<KvCache>,
}

impl<'a> MicroDecoder<'a> {
    fn new(model: &'a MicroVlm, patches: Vec<f32>, tokens: &'a [Vec<u32>]) -> Self {
        Self {
            model,
            patches,
            tokens,
            cache: None,
        }
    }

    fn net(&self) -> Net<'a> {
        Net::new(self.model, None)
    }

    fn heads(&self) -> Heads {
        Heads::all(self.model.config().decoder.heads)
    }
}

impl Decoder for MicroDecoder<'_> {
    fn start(&mut self) -> Tensor<2> {
        let (patches, prompts) = (std::mem::take(&mut self.patches), self.tokens);
        let (config, modules) = (self.model.config(), &self.model.modules);
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
        let net = self.net();
        let mut x = net.embed(net.encode(patches, &ids), &tokens, &sources, &positions);
        let mut cache = KvCache::new(&rows, self.heads());
        for (index, block) in modules.decoder_blocks.iter().enumerate() {
            let spans = spans(index + 1 == modules.decoder_blocks.len());
            let sequences = Sequences::new(&spans, &ids);
            let qkv = net.qkv(x.clone(), block, &sequences);
            cache.push(&qkv);
            let mixed = ops::attention(qkv, &spans, self.heads());
            x = net.finish(
                ops::take_rows(x, &spans.query_rows()),
                mixed,
                block,
                &sequences,
            );
        }
        self.cache = Some(cache);
        net.head(x)
    }

    fn step(&mut self, steps: &[Step]) -> Tensor<2> {
        let tokens: Vec<u32> = steps.iter().map(|step| step.token).collect();
        let owners: Vec<Continuation> = steps.iter().map(|step| step.owner).collect();
        let positions: Vec<u32> = steps.iter().map(|step| step.position as u32).collect();
        let net = self.net();
        // Nothing is dropped here, so it does not matter whose a row is.
        let spans = Spans::new(Vec::new());
        let sequences = Sequences::new(&spans, &[]);
        let mut x = net.embed_text(&tokens, &positions);
        let cache = self.cache.as_mut().expect("the prompts are encoded");
        cache.begin(&owners);
        for (index, block) in self.model.modules.decoder_blocks.iter().enumerate() {
            let qkv = net.qkv(x.clone(), block, &sequences);
            x = net.finish(x, cache.attend(index, qkv), block, &sequences);
        }
        net.head(x)
    }
}

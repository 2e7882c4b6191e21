//! Writing answers: images and prompts are encoded once, and their keys and values are shared by all answers to them.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use dcsft_tensor::ops::{self, Continuation, Heads, KvCache, Span, Spans};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::generate::{Asked, Decoder, Places, Step, TakenUp, Vocabulary, write};
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
    let answer = |prompts, tokens, refill| {
        let mut decoder = MicroDecoder::new(&model, prompts, tokens);
        let places = Places {
            prompts: GROUP,
            refill,
        };
        write(
            &mut decoder,
            &vocabulary,
            places,
            generations.clone(),
            sampling,
        )
    };
    if !model.on_host() {
        return answer(prompts, &tokens, GROUP / 4);
    }
    let groups = prompts.par_chunks(GROUP).zip(tokens.par_chunks(GROUP));
    let answers = groups.map(|(prompts, tokens)| answer(prompts, tokens, GROUP));
    let answers: Vec<_> = answers.collect::<Result<_, VlmError>>()?;
    Ok(answers.into_iter().flatten().collect())
}

fn patches(model: &MicroVlm, prompts: &[Prompt]) -> Result<Vec<u8>, VlmError> {
    let mut patches = Vec::new();
    for prompt in prompts {
        patches.extend(model.patches(model.image(prompt)?.load()?.as_ref())?);
    }
    Ok(patches)
}

fn asked(model: &MicroVlm, prompts: &[Prompt], tokens: &[Vec<u32>]) -> Vec<Asked> {
    let asked = |(prompt, tokens): (&Prompt, &Vec<u32>)| {
        let position = model.config().patches() + tokens.len();
        Asked {
            id: prompt.id.clone(),
            tokens: tokens.as_slice().into(),
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

/// Decodes the answers to prompts with a model whose adapters are model.
struct MicroDecoder<'a> {
    model: &'a MicroVlm,
    /// Those that wait.
    prompts: &'a [Prompt],
    /// Their tokens.
    tokens: &'a [Vec<u32>],
    cache: KvCache,
}

impl<'a> MicroDecoder<'a> {
    fn new(model: &'a MicroVlm, prompts: &'a [Prompt], tokens: &'a [Vec<u32>]) -> Self {
        Self {
            model,
            prompts,
            tokens,
            cache: KvCache::new(Heads::all(model.config().decoder.heads)),
        }
    }

    fn net(&self) -> Net<'a> {
        Net::new(self.model, None)
    }

    /// Reads an image each and prompts; gives the logits of what follows.
    fn read(&mut self, patches: Vec<u8>, prompts: &[Vec<u32>]) -> Tensor<2> {
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
        self.cache.enter(&rows);
        for (index, block) in modules.decoder_blocks.iter().enumerate() {
            let spans = spans(index + 1 == modules.decoder_blocks.len());
            let sequences = Sequences::new(&spans, &ids);
            let qkv = net.qkv(x.clone(), block, &sequences);
            self.cache.push(&qkv);
            let heads = Heads::all(config.decoder.heads);
            let mixed = ops::attention(qkv, &spans, heads);
            x = net.finish(
                ops::take_rows(x, &spans.query_rows()),
                mixed,
                block,
                &sequences,
            );
        }
        net.head(x)
    }
}

impl Decoder for MicroDecoder<'_> {
    fn take_up(&mut self, _: &[usize], most: usize) -> Result<Option<TakenUp>, VlmError> {
        let most = most.min(self.prompts.len());
        if most == 0 {
            return Ok(None);
        }
        let (prompts, tokens) = (&self.prompts[..most], &self.tokens[..most]);
        (self.prompts, self.tokens) = (&self.prompts[most..], &self.tokens[most..]);
        let logits = self.read(patches(self.model, prompts)?, tokens);
        let asked = asked(self.model, prompts, tokens);
        Ok(Some(TakenUp { asked, logits }))
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
        self.cache.begin(&owners);
        for (index, block) in self.model.modules.decoder_blocks.iter().enumerate() {
            let qkv = net.qkv(x.clone(), block, &sequences);
            x = net.finish(x, self.cache.attend(index, qkv), block, &sequences);
        }
        net.head(x)
    }
}

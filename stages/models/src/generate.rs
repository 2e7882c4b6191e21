//! Writing answers, token by token: images and prompts are encoded once, and their keys and values are shared by all
//! answers to them.

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use dcsft_tensor::ops::{Continuation, KvCache};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::generate::{Asked, Decoder, Step, Vocabulary, write};
use dcsft_vlm::model::{Completion, Picture, Prompt, Sampling};
use rayon::prelude::*;

use crate::batch::{Ask, Batch, Sequence};
use crate::family::Family;
use crate::model::{HubModel, embedding, pass};
use crate::modules::Weights;
use crate::pass::Pass;

/// How many prompts are worked on together: each weight is read once for all of their answers. The answers do not depend
/// on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// Prompts at most.
    pub(crate) prompts: usize,
    /// Patches of their images at most, unless a single prompt has more.
    pub(crate) patches: usize,
}

impl Group {
    /// On the processor, or on a GPU, which works on all rows at once.
    pub(crate) fn of(on_gpu: bool) -> Self {
        match on_gpu {
            false => Self {
                prompts: 16,
                patches: 1 << 16,
            },
            true => Self {
                prompts: 32,
                patches: 1 << 17,
            },
        }
    }

    /// Cuts prompts, of which each has so many patches.
    fn cut<T>(self, prompts: &[T], patches: impl Fn(&T) -> usize) -> Vec<&[T]> {
        let (mut groups, mut start, mut so_far) = (Vec::new(), 0, 0);
        for (index, prompt) in prompts.iter().enumerate() {
            let own = patches(prompt);
            let full = index - start == self.prompts || so_far + own > self.patches;
            if index > start && full {
                groups.push(&prompts[start..index]);
                (start, so_far) = (index, 0);
            }
            so_far += own;
        }
        if start < prompts.len() {
            groups.push(&prompts[start..]);
        }
        groups
    }
}

pub(crate) fn generate(
    model: &HubModel,
    prompts: &[Prompt],
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    sampling.validate()?;
    let encode = |group: &[Prompt]| -> Result<Vec<Sequence>, VlmError> {
        let each = group.par_iter();
        each.map(|prompt| sequence(model, prompt)).collect()
    };
    let write = |group: &[Sequence]| model.write(group, generations.clone(), sampling);
    let mut answers = Vec::with_capacity(prompts.len());
    // The patches of a large image take some hundred times what its file does: of few groups are they in memory.
    let groups = model.group().cut(prompts, |prompt| model.patches(prompt));
    if !model.on_device() {
        for group in groups {
            answers.extend(write(&encode(group)?)?);
        }
        return Ok(answers);
    }
    let mut groups = groups.into_iter();
    let mut next = groups.next().map(encode);
    while let Some(group) = next {
        let group = group?;
        // While the device writes, the processor reads the images of the next group.
        next = std::thread::scope(|scope| {
            let next = groups.next().map(|group| scope.spawn(|| encode(group)));
            answers.extend(write(&group)?);
            let panicked = |panic| std::panic::resume_unwind(panic);
            Ok::<_, VlmError>(next.map(|next| next.join().unwrap_or_else(panicked)))
        })?;
    }
    Ok(answers)
}

/// A prompt as the model takes it, with room for at least one token of an answer.
fn sequence(model: &HubModel, prompt: &Prompt) -> Result<Sequence, VlmError> {
    prompt.validate()?;
    let encoded = model.encode(prompt)?;
    let needed = encoded.ids.len() + 1;
    if needed > model.context() {
        return Err(VlmError::TooLong {
            what: format!(
                "the prompt of sample {} with one token of an answer",
                prompt.id
            ),
            needed,
            room: model.context(),
        });
    }
    Ok(Sequence {
        id: prompt.id.clone(),
        encoded: encoded.into(),
        answers: Vec::new(),
    })
}

impl HubModel {
    /// Answers `generations` to prompts that are encoded already, each with room for at least one token.
    ///
    /// # Errors
    /// As [`dcsft_vlm::generate::write`].
    pub fn write(
        &self,
        prompts: &[Sequence],
        generations: Range<u32>,
        sampling: &Sampling,
    ) -> Result<Vec<Vec<Completion>>, VlmError> {
        let weights = self.weights.without_gradients();
        let vocabulary = Vocabulary {
            size: self.family().decoder().config.vocab,
            stops: &self.stops,
        };
        let group = |prompts: &[Sequence]| {
            let asked: Vec<Asked> = prompts.iter().map(|prompt| self.asked(prompt)).collect();
            let mut decoder = CachedDecoder {
                model: self,
                weights: &weights,
                prompts,
                cache: None,
            };
            write(
                &mut decoder,
                &vocabulary,
                &asked,
                generations.clone(),
                sampling,
            )
        };
        let each = self.family().tower_shape().patch_values;
        let patches = |prompt: &Sequence| {
            let images = prompt.encoded.images.iter();
            images.map(|image| image.values.len() / each).sum::<usize>()
        };
        let groups = self.group().cut(prompts, patches).into_iter().map(group);
        Ok(groups.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Patches of a prompt's images, as far as their sizes tell.
    fn patches(&self, prompt: &Prompt) -> usize {
        let limits = self.processor.images().limits();
        let limits = limits.map(|pixels| pixels as f64);
        let of_image = |picture: &Picture| {
            let (width, height) = picture.size();
            let pixels = f64::from(width) * f64::from(height);
            self.family().image_cost(pixels, limits).patches as usize
        };
        prompt.images.iter().map(of_image).sum::<usize>()
    }

    /// Prompts that are worked on together.
    pub(crate) fn group(&self) -> Group {
        Group::of(self.on_device())
    }

    /// Whether something else than the processor computes.
    fn on_device(&self) -> bool {
        self.device.clone().inner() != Device::flex()
    }

    fn asked<'a>(&self, prompt: &'a Sequence) -> Asked<'a> {
        Asked {
            id: &prompt.id,
            tokens: &prompt.encoded.ids,
            position: prompt.encoded.next_position as usize,
            room: self.context().saturating_sub(prompt.encoded.ids.len()),
        }
    }
}

/// Decodes one group of prompts.
struct CachedDecoder<'a> {
    model: &'a HubModel,
    /// The model's, without gradients.
    weights: &'a Weights,
    prompts: &'a [Sequence],
    /// Keys and values, once the prompts are encoded.
    cache: Option<KvCache>,
}

impl<'a> CachedDecoder<'a> {
    fn pass(&self) -> Pass<'a> {
        pass(self.weights, None)
    }

    fn family(&self) -> &'a dyn Family {
        self.model.family()
    }
}

impl Decoder for CachedDecoder<'_> {
    fn start(&mut self) -> Tensor<2> {
        let batch = Batch::new(self.family(), self.prompts, Ask::Next);
        let (decoder, pass) = (self.family().decoder(), self.pass());
        let pixels = self.model.pixels(&batch).inner();
        let rows = embedding(self.family(), pass, &batch).run(pixels);
        let (x, cache) = decoder.prefill(pass, rows, &batch);
        self.cache = Some(cache);
        decoder.head(pass, x)
    }

    fn step(&mut self, steps: &[Step]) -> Tensor<2> {
        let (decoder, pass) = (self.family().decoder(), self.pass());
        let tokens: Vec<u32> = steps.iter().map(|step| step.token).collect();
        let positions: Vec<[u32; 3]> = steps.iter().map(|step| [step.position as u32; 3]).collect();
        let rotary = decoder.config.rotary(&positions);
        let owners: Vec<Continuation> = steps.iter().map(|step| step.owner).collect();
        let x = decoder.embed_tokens(pass, &tokens);
        let cache = self.cache.as_mut().expect("the prompts are encoded");
        cache.begin(&owners);
        let x = decoder.decode(pass, x, &rotary, |index, qkv| cache.attend(index, qkv));
        decoder.head(pass, x)
    }
}

#[cfg(test)]
mod tests {
    use super::Group;

    #[test]
    fn groups_are_cut_by_prompts_and_by_patches() {
        let group = Group {
            prompts: 3,
            patches: 10,
        };
        let cut = |patches: &[usize]| -> Vec<Vec<usize>> {
            let groups = group.cut(patches, |&patches| patches);
            groups.into_iter().map(<[usize]>::to_vec).collect()
        };
        assert_eq!(cut(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(cut(&[1, 1, 1, 1]), [vec![1, 1, 1], vec![1]]);
        assert_eq!(
            cut(&[5, 5, 1, 99, 0, 3]),
            [vec![5, 5], vec![1], vec![99], vec![0, 3]]
        );
    }
}

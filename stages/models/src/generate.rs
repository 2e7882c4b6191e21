//! Writing answers, token by token: images and prompts are encoded once, and their keys and values are shared by all
//! answers to them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

use burn::tensor::{Device, Tensor};
use dcsft_tensor::ops::{Continuation, KvCache};
use dcsft_vlm::beside::Received;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::generate::{Asked, Decoder, Places, Step, TakenUp, Vocabulary, write};
use dcsft_vlm::model::{Completion, Picture, Prompt, Sampling};
use rayon::prelude::*;

use crate::batch::{Ask, Batch, Sequence};
use crate::family::Family;
use crate::model::{HubModel, embedding, pass};
use crate::modules::Weights;
use crate::pass::Pass;
use crate::processor::CHANNELS;

/// What is worked on together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) places: Places,
    /// Patches of their images at most, unless a single prompt has more.
    pub(crate) patches: usize,
}

/// Prompts of a call, of a GPU's groups: while some wait, the places of those that are answered do not stay empty.
const GROUPS_OF_A_CALL: usize = 8;

impl Group {
    /// On the processor, or on a GPU, which works on all rows at once. The processor takes no longer for few rows than their
    /// share, so that it finishes a group before it begins another.
    pub(crate) fn of(on_gpu: bool) -> Self {
        let (prompts, refill, patches) = match on_gpu {
            false => (16, 16, 1 << 16),
            true => (32, 8, 1 << 17),
        };
        Self {
            places: Places { prompts, refill },
            patches,
        }
    }

    /// Prompts that are asked for in a call.
    pub(crate) fn questions(self) -> usize {
        match self.places.refill < self.places.prompts {
            true => GROUPS_OF_A_CALL * self.places.prompts,
            false => self.places.prompts,
        }
    }

    /// Cuts prompts, of which each has so many patches, into those that are encoded together.
    fn cut<T>(self, prompts: &[T], patches: impl Fn(&T) -> usize) -> Vec<&[T]> {
        let most = self.places.refill.clamp(1, self.places.prompts.max(1));
        let (mut groups, mut start, mut so_far) = (Vec::new(), 0, 0);
        for (index, prompt) in prompts.iter().enumerate() {
            let own = patches(prompt);
            let full = index - start == most || so_far + own > self.patches;
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

type Encoded = Result<Vec<Sequence>, VlmError>;

/// Stretches of encoded prompts that wait while the device works.
const STRETCHES_AHEAD: usize = 4;

pub(crate) fn generate(
    model: &HubModel,
    prompts: &[Prompt],
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    sampling.validate()?;
    let encode = |stretch: &[Prompt]| -> Encoded {
        let each = stretch.par_iter();
        each.map(|prompt| sequence(model, prompt)).collect()
    };
    // The patches of a large image take some hundred times what its file does: of few prompts are they in memory.
    let stretches = model.group().cut(prompts, |prompt| model.patches(prompt));
    if !model.on_device() {
        let encoded = stretches.into_iter().map(encode);
        return model.answer(encoded, generations, sampling);
    }
    std::thread::scope(|scope| {
        let (send, encoded) = sync_channel(STRETCHES_AHEAD);
        // While the device writes, the processor reads the images of those that come next.
        scope.spawn(move || {
            let encoded = stretches.into_iter().map(encode);
            // Nobody takes them any more once there was an error.
            let _ = encoded
                .map(|encoded| send.send(encoded))
                .find(Result::is_err);
        });
        model.answer(Received(encoded), generations, sampling)
    })
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
    /// As [`dcsft_vlm::generate::write()`].
    pub fn write(
        &self,
        prompts: &[Sequence],
        generations: Range<u32>,
        sampling: &Sampling,
    ) -> Result<Vec<Vec<Completion>>, VlmError> {
        let stretches = self.group().cut(prompts, |prompt| self.patches_of(prompt));
        let encoded = stretches.into_iter().map(|stretch| Ok(stretch.to_vec()));
        self.answer(encoded, generations, sampling)
    }

    fn answer(
        &self,
        stretches: impl Iterator<Item = Encoded>,
        generations: Range<u32>,
        sampling: &Sampling,
    ) -> Result<Vec<Vec<Completion>>, VlmError> {
        let vocabulary = Vocabulary {
            size: self.family().decoder().config.vocab,
            stops: &self.stops,
        };
        let weights = self.weights.without_gradients();
        let mut decoder = CachedDecoder {
            model: self,
            weights: &weights,
            stretches,
            waiting: VecDeque::new(),
            taken: Vec::new(),
            cache: KvCache::new(self.family().decoder().config.heads()),
        };
        let places = self.group().places;
        write(&mut decoder, &vocabulary, places, generations, sampling)
    }

    /// Works on so many prompts together, in the place of what suits the device.
    pub fn set_places(&mut self, places: Places) {
        self.places = Some(places);
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

    /// The same, of images that are cut into them.
    fn patches_of(&self, prompt: &Sequence) -> usize {
        let each = CHANNELS * self.family().tower_shape().patch_pixels;
        let images = prompt.encoded.images.iter();
        images.map(|image| image.bytes.len() / each).sum::<usize>()
    }

    /// What is worked on together.
    pub(crate) fn group(&self) -> Group {
        let group = Group::of(self.on_device());
        Group {
            places: self.places.unwrap_or(group.places),
            ..group
        }
    }

    /// Whether something else than the processor computes.
    fn on_device(&self) -> bool {
        self.device.clone().inner() != Device::flex()
    }

    fn asked(&self, prompt: &Sequence) -> Asked {
        Asked {
            id: prompt.id.clone(),
            tokens: prompt.encoded.ids.as_slice().into(),
            position: prompt.encoded.next_position as usize,
            room: self.context().saturating_sub(prompt.encoded.ids.len()),
        }
    }
}

/// Decodes the answers to prompts that come in stretches.
struct CachedDecoder<'a, I> {
    model: &'a HubModel,
    /// The model's, without gradients.
    weights: &'a Weights,
    stretches: I,
    /// Of a stretch those that found no place.
    waiting: VecDeque<Sequence>,
    /// Patches of each prompt that was taken up.
    taken: Vec<usize>,
    cache: KvCache,
}

impl<'a, I: Iterator<Item = Encoded>> CachedDecoder<'a, I> {
    fn pass(&self) -> Pass<'a> {
        pass(self.weights, None)
    }

    fn family(&self) -> &'a dyn Family {
        self.model.family()
    }

    /// The next prompts, at most `most` that fit besides so many patches; at least one if there is one and `needed`.
    fn next(&mut self, most: usize, beside: usize, needed: bool) -> Encoded {
        let Group { places, patches } = self.model.group();
        let (mut next, mut so_far) = (Vec::new(), beside);
        loop {
            while next.len() < most
                && let Some(prompt) = self.waiting.front()
            {
                let own = self.model.patches_of(prompt);
                let must = needed && next.is_empty();
                if !must && so_far + own > patches {
                    return Ok(next);
                }
                so_far += own;
                self.taken.push(own);
                next.extend(self.waiting.pop_front());
            }
            // A stretch is read when there is a place for all of it.
            let fits = next.is_empty() || next.len() + places.refill <= most;
            let stretch = if fits { self.stretches.next() } else { None };
            match stretch {
                None => return Ok(next),
                Some(stretch) => self.waiting.extend(stretch?),
            }
        }
    }
}

impl<I: Iterator<Item = Encoded>> Decoder for CachedDecoder<'_, I> {
    fn take_up(&mut self, under_way: &[usize], most: usize) -> Result<Option<TakenUp>, VlmError> {
        let beside = under_way.iter().map(|&prompt| self.taken[prompt]);
        let beside = beside.sum::<usize>();
        let prompts = self.next(most, beside, under_way.is_empty())?;
        if prompts.is_empty() {
            return Ok(None);
        }
        let batch = Batch::new(self.family(), &prompts, Ask::Next);
        let (decoder, pass) = (self.family().decoder(), self.pass());
        let pixels = self.model.pixels(&batch).inner();
        let rows = embedding(self.family(), pass, &batch).run(pixels);
        let x = decoder.prefill(pass, rows, &batch, &mut self.cache);
        Ok(Some(TakenUp {
            logits: decoder.head(pass, x),
            asked: prompts
                .iter()
                .map(|prompt| self.model.asked(prompt))
                .collect(),
        }))
    }

    fn step(&mut self, steps: &[Step]) -> Tensor<2> {
        let (decoder, pass) = (self.family().decoder(), self.pass());
        let tokens: Vec<u32> = steps.iter().map(|step| step.token).collect();
        let positions: Vec<[u32; 3]> = steps.iter().map(|step| [step.position as u32; 3]).collect();
        let rotary = decoder.config.rotary(&positions);
        let owners: Vec<Continuation> = steps.iter().map(|step| step.owner).collect();
        let x = decoder.embed_tokens(pass, &tokens);
        self.cache.begin(&owners);
        let cache = &mut self.cache;
        let x = decoder.decode(pass, x, &rotary, |index, qkv| cache.attend(index, qkv));
        decoder.head(pass, x)
    }
}

#[cfg(test)]
mod tests {
    use super::{Group, Places};

    #[test]
    fn groups_are_cut_by_prompts_and_by_patches() {
        let places = Places {
            prompts: 4,
            refill: 3,
        };
        let patches = 10;
        let group = Group { places, patches };
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

//! The drawing on a device: one kernel a token, one copy up and one down.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use cubecl::prelude::*;

use super::kernel::{ASKED, Steps, draw_kernel};
use super::{Draw, Drawing, Drawn};
use crate::host::{self, CopyError, send};
use crate::ops::cube::{UNITS, floats, integers};

/// Tokens of the vocabulary that one number of a device has flags for.
const BITS: usize = 32;

/// A vocabulary whose weights, none above 1, could come to more than two words hold: 2^64 multiples of 2^-45.
const MOST: usize = 1 << 19;

/// Draws the tokens of some answers.
pub struct Drawer {
    how: Drawing,
    vocab: usize,
    device: Device,
    /// Of each answer the tokens that were there, a bit each: `[answers, words]`; a single word without a penalty.
    seen: Tensor<2, Int>,
    /// The row of each answer in it; none without a penalty.
    rows: BTreeMap<usize, u32>,
}

impl Drawer {
    /// Without answers yet; for tokens of a vocabulary of `vocab`. None where the processor has to draw: the logits are its
    /// own, or too many for the kernel's sums.
    pub fn new(how: Drawing, vocab: usize, device: &Device) -> Option<Self> {
        if device.clone().inner() == Device::flex() || vocab >= MOST {
            return None;
        }
        Some(Self {
            how,
            vocab,
            device: device.clone(),
            seen: Tensor::zeros([1, 1], (device, DType::U32)),
            rows: BTreeMap::new(),
        })
    }

    /// Takes `each` answers to each of these prompts up, numbered from `first` on. Of those before, `going_on` are drawn
    /// for again, and no others.
    pub fn enter(&mut self, going_on: &[usize], first: usize, prompts: &[&[u32]], each: usize) {
        if self.how.penalty == 1.0 {
            return;
        }
        let new = seen(self.vocab, prompts, each, &self.device);
        let kept: Vec<i32> = going_on
            .iter()
            .map(|answer| self.rows[answer] as i32)
            .collect();
        self.seen = match kept.len() {
            0 => new,
            count => {
                let kept = TensorData::new(kept, [count]);
                let kept = self.seen.clone().select(0, send(kept, &self.device));
                Tensor::cat(vec![kept, new], 0)
            }
        };
        let answers = going_on
            .iter()
            .copied()
            .chain(first..first + prompts.len() * each);
        self.rows = answers.zip(0..).collect();
    }

    /// A token each of `draws`, of which each has an answer of its own.
    ///
    /// # Errors
    /// [`CopyError`] where the device has failed.
    ///
    /// # Panics
    /// If the logits are on the processor, or there is an answer that was not [taken up](Drawer::enter).
    pub fn draw(&mut self, logits: &Tensor<2>, draws: &[Draw]) -> Result<Vec<Drawn>, CopyError> {
        let (device, vocab) = (logits.device(), logits.dims()[1]);
        let how = self.how;
        let penalised = how.penalty != 1.0;
        let asked = draws.iter().flat_map(|draw| {
            let answer = if penalised {
                self.rows[&draw.answer]
            } else {
                0
            };
            let [high, low] = words(draw.uniform);
            [draw.row as u32, answer, high, low]
        });
        let asked = TensorData::new(asked.collect::<Vec<u32>>(), [draws.len(), ASKED]);
        let asked = send::<2, Int>(asked, (&device, DType::U32));
        let empty = |width| Tensor::<2, Int>::empty([draws.len(), width], (&device, DType::U32));
        let (out, weights) = (empty(2), empty(vocab));
        let logits = logits.clone().cast(DType::F32);
        let logits = floats(&logits);
        let client = logits.client.clone();
        let [share, share_low] = words(how.top_p);
        draw_kernel::launch(
            &client,
            CubeCount::Static(draws.len() as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            logits.into_tensor_arg(),
            integers(&asked).into_tensor_arg(),
            integers(&self.seen).into_tensor_arg(),
            integers(&weights).into_tensor_arg(),
            integers(&out).into_tensor_arg(),
            how.inverse_temperature.unwrap_or(1.0),
            how.penalty,
            how.top_k as u32,
            share,
            share_low,
            UNITS as usize,
            Steps {
                greedy: how.inverse_temperature.is_none(),
                penalised,
                by_k: how.top_k > 0 && how.top_k < vocab,
                by_p: how.top_p < 1.0,
            },
        );
        let drawn = host::words(out)?;
        let drawn = drawn
            .chunks_exact(2)
            .map(|pair| ((pair[0] as usize) < vocab).then(|| (pair[0], f32::from_bits(pair[1]))));
        Ok(drawn.collect())
    }
}

/// A number in `[0, 1)` in multiples of 2^-64: two words, the upper one first.
fn words(part: f64) -> [u32; 2] {
    const WORD: f64 = 4_294_967_296.0;
    let scaled = part * WORD;
    let low = (scaled - scaled.floor()) * WORD;
    [scaled as u32, low as u32]
}

/// The tokens of each prompt, a bit each, for `each` answers in a row: `[prompts * each, words]`.
fn seen(vocab: usize, prompts: &[&[u32]], each: usize, device: &Device) -> Tensor<2, Int> {
    let words = vocab.div_ceil(BITS);
    let mut bits = vec![0_u32; prompts.len() * words];
    for (own, prompt) in bits.chunks_exact_mut(words.max(1)).zip(prompts) {
        for &token in prompt.iter().filter(|&&token| (token as usize) < vocab) {
            own[token as usize / BITS] |= 1 << (token as usize % BITS);
        }
    }
    let bits = TensorData::new(bits, [prompts.len(), 1, words]);
    send::<3, Int>(bits, (device, DType::U32))
        .repeat_dim(1, each)
        .reshape([prompts.len() * each, words])
}

//! The kernel: a cube draws one token.
//!
//! Sums of weights are whole numbers, multiples of 2^-45 in two words: they do not depend on the order in which they are
//! added, nor on how a driver rearranges floats. Which tokens top-k and top-p leave is found by quartering: the bits of
//! positive floats have the order of their values, so fifteen steps find the smallest weight that is left.

use cubecl::prelude::*;

use super::pick::pick;
use super::sums::{PARTINGS, equals_left, kept, smallest_left};
use super::units::total;
use super::words::{Words, enough_of, of_weight, plus, weight_of};
use crate::ops::cube::{Fold, over_units};

/// Numbers that say what is drawn: the row of logits, the row of `seen`, two words of the uniform number.
pub(super) const ASKED: usize = 4;

/// What has to be done for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Steps {
    pub(super) greedy: bool,
    pub(super) penalised: bool,
    pub(super) by_k: bool,
    pub(super) by_p: bool,
}

/// `asked`: `[draws, ASKED]`; `seen`: a bit for each token of the vocabulary, `[answers, words]`, where the drawn one is
/// put in; `weights`: `[draws, vocab]`, room to work in. `out`: the token and the bits of its log-probability, `[draws,
/// 2]`; the token is the vocabulary's size where a logit is no number. `share` is top-p in two words.
#[cube(launch)]
pub(super) fn draw_kernel(
    logits: &Tensor<f32>,
    asked: &Tensor<u32>,
    seen: &mut Tensor<u32>,
    weights: &mut Tensor<u32>,
    out: &mut Tensor<u32>,
    inverse: f32,
    penalty: f32,
    top_k: u32,
    share: u32,
    share_low: u32,
    #[comptime] units: usize,
    #[comptime] steps: Steps,
) {
    let row = CUBE_POS_X as usize;
    let unit = UNIT_POS_X as usize;
    let vocab = logits.shape(1);
    let source = asked[row * 4] as usize * logits.stride(0);
    let step = logits.stride(1);
    let bits_of = asked[row * 4 + 1] as usize * seen.shape(1);
    let own = row * vocab;
    let mut floats = Shared::<[f32]>::new_slice(units);
    let mut highs = Shared::<[u32]>::new_slice(comptime!(units * PARTINGS));
    let mut lows = Shared::<[u32]>::new_slice(comptime!(units * PARTINGS));

    // The largest logits, with the penalty and without.
    let mut plain_top = f32::new(f32::MIN);
    let mut top = f32::new(f32::MIN);
    let mut top_at = 0u32;
    let mut wrong = 0u32;
    let mut at = unit;
    while at < vocab {
        let plain = logits[source + at * step];
        if u32::reinterpret(plain) & 0x7f80_0000u32 == 0x7f80_0000u32 {
            wrong += 1u32;
        }
        let mut logit = plain;
        if comptime!(steps.penalised) {
            let word = seen[bits_of + at / 32];
            if (word >> (at as u32 % 32u32)) & 1u32 == 1u32 {
                if plain > 0.0f32 {
                    logit = plain / penalty;
                } else {
                    logit = plain * penalty;
                }
            }
        }
        weights[own + at] = u32::reinterpret(logit);
        if plain > plain_top {
            plain_top = plain;
        }
        if logit > top {
            top = logit;
            top_at = at as u32;
        }
        at += units;
    }
    let wrong = over_units(wrong, unit, &mut highs, units, Fold::Sum);
    let plain_top = over_units(plain_top, unit, &mut floats, units, Fold::Most);
    let own_top = top;
    let top = over_units(own_top, unit, &mut floats, units, Fold::Most);
    // The first of equals.
    let mut candidate = vocab as u32;
    if own_top == top {
        candidate = top_at;
    }
    let top_at = over_units(candidate, unit, &mut highs, units, Fold::Least);

    // Logits to weights; the sum of those without the penalty.
    let mut plain_sum = Words {
        high: 0u32,
        low: 0u32,
    };
    let mut at = unit;
    while at < vocab {
        let plain = weight_of(logits[source + at * step] * inverse - plain_top * inverse);
        plain_sum = plus(plain_sum, of_weight(u32::reinterpret(plain)));
        let logit = f32::reinterpret(weights[own + at]);
        weights[own + at] = u32::reinterpret(weight_of(logit * inverse - top * inverse));
        at += units;
    }
    let plain_sum = total(plain_sum, unit, &mut highs, &mut lows, units);
    let plain_sum = f32::cast_from(plain_sum.high) / 8192.0f32
        + f32::cast_from(plain_sum.low) / 8192.0f32 / 4_294_967_296.0f32;
    let mut chosen = top_at;
    if comptime!(!steps.greedy) {
        // The smallest weight that is left, and how many tokens that have just it.
        let mut cut = 0u32;
        let mut equals = vocab as u32;
        if comptime!(steps.by_k) {
            let enough = Words {
                high: 0u32,
                low: top_k,
            };
            cut = smallest_left(
                weights, own, vocab, cut, enough, unit, &mut highs, &mut lows, units, true,
            );
        }
        if comptime!(steps.by_p) {
            let share = Words {
                high: share,
                low: share_low,
            };
            let whole = kept(weights, own, vocab, cut, unit, &mut highs, &mut lows, units);
            let enough = enough_of(whole, share);
            cut = smallest_left(
                weights, own, vocab, cut, enough, unit, &mut highs, &mut lows, units, false,
            );
            // Of equals the first stay, as many as it takes.
            let above = kept(
                weights,
                own,
                vocab,
                cut + 1u32,
                unit,
                &mut highs,
                &mut lows,
                units,
            );
            equals = equals_left(above, cut, enough, vocab);
        }
        let uniform = Words {
            high: asked[row * 4 + 2],
            low: asked[row * 4 + 3],
        };
        chosen = pick(
            weights, own, vocab, cut, equals, uniform, unit, &mut highs, &mut lows, units,
            steps.by_p,
        );
    }
    if unit == 0 {
        let place = chosen as usize;
        if comptime!(steps.penalised) {
            let word = bits_of + place / 32;
            seen[word] |= 1u32 << (chosen % 32u32);
        }
        let logit = logits[source + place * step];
        let logprob = (logit - plain_top) * inverse - plain_sum.ln();
        let mut token = chosen;
        if wrong > 0u32 {
            token = vocab as u32;
        }
        out[row * 2] = token;
        out[row * 2 + 1] = u32::reinterpret(logprob);
    }
}

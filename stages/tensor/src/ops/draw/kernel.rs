//! The kernel: a cube draws one token.
//!
//! Sums of weights are whole numbers, multiples of 2^-45 in two words: they do not depend on the order in which they are
//! added, nor on how a driver rearranges floats. Which tokens top-k and top-p leave is found by quartering: the bits of
//! positive floats have the order of their values, so fifteen steps find the smallest weight that is left.

use cubecl::prelude::*;

use super::sums::{PARTINGS, add_up, kept, smallest_left};
use super::units::{largest, least, most, total_count};
use super::words::{fixed_high, fixed_low, part_high, part_low, weight_of};

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
    let mut plain_top = f32::new(-3.0e38);
    let mut top = f32::new(-3.0e38);
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
    let wrong = total_count(wrong, unit, &mut highs, units);
    let plain_top = largest(plain_top, unit, &mut floats, units);
    let own_top = top;
    let top = largest(own_top, unit, &mut floats, units);
    // The first of equals.
    let mut candidate = vocab as u32;
    if own_top == top {
        candidate = top_at;
    }
    let top_at = least(candidate, unit, &mut highs, units);

    // Logits to weights; the sum of those without the penalty.
    let mut sum_high = 0u32;
    let mut sum_low = 0u32;
    let mut at = unit;
    while at < vocab {
        let plain = weight_of(logits[source + at * step] * inverse - plain_top * inverse);
        let further = fixed_low(plain);
        sum_low += further;
        sum_high += fixed_high(plain);
        if sum_low < further {
            sum_high += 1u32;
        }
        let logit = f32::reinterpret(weights[own + at]);
        weights[own + at] = u32::reinterpret(weight_of(logit * inverse - top * inverse));
        at += units;
    }
    highs[unit] = sum_high;
    lows[unit] = sum_low;
    sync_cube();
    add_up(unit, &mut highs, &mut lows, units);
    let plain_sum = f32::cast_from(highs[0]) / 8192.0f32
        + f32::cast_from(lows[0]) / 8192.0f32 / 4_294_967_296.0f32;
    sync_cube();
    let mut chosen = top_at;
    if comptime!(!steps.greedy) {
        // The smallest weight that is left, and how many tokens that have just it.
        let mut cut = 0u32;
        let mut equals = vocab as u32;
        if comptime!(steps.by_k) {
            cut = smallest_left(
                weights, own, vocab, cut, 0u32, top_k, unit, &mut highs, &mut lows, units, true,
            );
        }
        if comptime!(steps.by_p) {
            kept(weights, own, vocab, cut, unit, &mut highs, &mut lows, units);
            let whole_high = highs[0];
            let whole_low = lows[0];
            sync_cube();
            // The share of the whole: two words and, below them, a fraction.
            let mut enough_high = part_high(whole_high, whole_low, share);
            let mut enough_low = part_low(whole_high, whole_low, share);
            let further = part_high(whole_high, whole_low, share_low);
            enough_low += further;
            if enough_low < further {
                enough_high += 1u32;
            }
            let mut fraction = whole_low * share;
            let further = part_low(whole_high, whole_low, share_low);
            fraction += further;
            if fraction < further {
                enough_low += 1u32;
                if enough_low == 0u32 {
                    enough_high += 1u32;
                }
            }
            // Less 2^-52 of it, for 9 tenths of ten equals are nine of them, as they are in 64 bits; then rounded up.
            let less = (enough_high & 0xf_ffffu32) << 12u32;
            let mut borrowed = enough_high >> 20u32;
            if fraction < less {
                borrowed += 1u32;
            }
            fraction -= less;
            if enough_low < borrowed {
                enough_high -= 1u32;
            }
            enough_low -= borrowed;
            if fraction != 0u32 {
                enough_low += 1u32;
                if enough_low == 0u32 {
                    enough_high += 1u32;
                }
            }
            cut = smallest_left(
                weights,
                own,
                vocab,
                cut,
                enough_high,
                enough_low,
                unit,
                &mut highs,
                &mut lows,
                units,
                false,
            );
            // Of equals the first stay, as many as it takes.
            kept(
                weights,
                own,
                vocab,
                cut + 1u32,
                unit,
                &mut highs,
                &mut lows,
                units,
            );
            let mut sum_high = highs[0];
            let mut sum_low = lows[0];
            sync_cube();
            let each_high = fixed_high(f32::reinterpret(cut));
            let each_low = fixed_low(f32::reinterpret(cut));
            equals = 0u32;
            while equals < vocab as u32
                && (sum_high < enough_high || (sum_high == enough_high && sum_low < enough_low))
            {
                sum_low += each_low;
                sum_high += each_high;
                if sum_low < each_low {
                    sum_high += 1u32;
                }
                equals += 1u32;
            }
        }

        // From here on each unit has a stretch of the vocabulary: which of the equals are in it, what is left of it.
        let each = (vocab - 1) / units + 1;
        let from = unit * each;
        let mut to = from + each;
        if to > vocab {
            to = vocab;
        }
        let mut rank = 0u32;
        if comptime!(steps.by_p) {
            let mut count = 0u32;
            let mut at = from;
            while at < to {
                if weights[own + at] == cut {
                    count += 1u32;
                }
                at += 1;
            }
            highs[unit] = count;
            sync_cube();
            let mut other = 0usize;
            while other < unit {
                rank += highs[other];
                other += 1;
            }
            sync_cube();
        }
        let first_rank = rank;
        let mut sum_high = 0u32;
        let mut sum_low = 0u32;
        let mut at = from;
        while at < to {
            let bits = weights[own + at];
            if bits > cut || (bits == cut && rank < equals) {
                let low = fixed_low(f32::reinterpret(bits));
                sum_low += low;
                sum_high += fixed_high(f32::reinterpret(bits));
                if sum_low < low {
                    sum_high += 1u32;
                }
            }
            if bits == cut {
                rank += 1u32;
            }
            at += 1;
        }
        highs[unit] = sum_high;
        lows[unit] = sum_low;
        sync_cube();
        let mut before_high = 0u32;
        let mut before_low = 0u32;
        let mut whole_high = 0u32;
        let mut whole_low = 0u32;
        let mut other = 0usize;
        while other < units {
            if other == unit {
                before_high = whole_high;
                before_low = whole_low;
            }
            whole_low += lows[other];
            whole_high += highs[other];
            if whole_low < lows[other] {
                whole_high += 1u32;
            }
            other += 1;
        }
        sync_cube();

        // The first token whose running sum passes the uniform number's part of the whole.
        let uniform = asked[row * 4 + 2];
        let uniform_low = asked[row * 4 + 3];
        let mut passed_high = part_high(whole_high, whole_low, uniform);
        let mut passed_low = part_low(whole_high, whole_low, uniform);
        let further = part_high(whole_high, whole_low, uniform_low);
        passed_low += further;
        if passed_low < further {
            passed_high += 1u32;
        }
        let mut first = vocab as u32;
        let mut last = 0u32;
        rank = first_rank;
        let mut at = from;
        while at < to {
            let bits = weights[own + at];
            if bits > 0u32 && (bits > cut || (bits == cut && rank < equals)) {
                let low = fixed_low(f32::reinterpret(bits));
                before_low += low;
                before_high += fixed_high(f32::reinterpret(bits));
                if before_low < low {
                    before_high += 1u32;
                }
                last = at as u32;
                let passes = before_high > passed_high
                    || (before_high == passed_high && before_low > passed_low);
                if passes && first == vocab as u32 {
                    first = at as u32;
                }
            }
            if bits == cut {
                rank += 1u32;
            }
            at += 1;
        }
        let first = least(first, unit, &mut highs, units);
        let last = most(last, unit, &mut highs, units);
        chosen = first;
        if first == vocab as u32 {
            chosen = last;
        }
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

//! The token that a random number falls on.

use cubecl::prelude::*;

use super::words::{Words, of_weight, plus, reaches, share_of};
use crate::ops::cube::{Fold, over_units};

/// The first token whose running sum passes the random number's share of all that is left: what has more bits than `cut`,
/// and the first `equals` of those that have just as many.
///
/// Each unit has a stretch of the vocabulary.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's parts have no struct to share"
)]
pub(super) fn pick(
    weights: &mut Tensor<u32>,
    own: usize,
    vocab: usize,
    cut: u32,
    equals: u32,
    uniform: Words,
    unit: usize,
    highs: &mut Shared<[u32]>,
    lows: &mut Shared<[u32]>,
    #[comptime] units: usize,
    #[comptime] ranked: bool,
) -> u32 {
    let each = (vocab - 1) / units + 1;
    let from = unit * each;
    let mut to = from + each;
    if to > vocab {
        to = vocab;
    }
    let mut first_rank = 0u32;
    if comptime!(ranked) {
        first_rank = equals_before(weights, own, cut, from, to, unit, highs);
    }
    let mut rank = first_rank;
    let mut sum = Words {
        high: 0u32,
        low: 0u32,
    };
    let mut at = from;
    while at < to {
        let bits = weights[own + at];
        if bits > cut || (bits == cut && rank < equals) {
            sum = plus(sum, of_weight(bits));
        }
        if bits == cut {
            rank += 1u32;
        }
        at += 1;
    }
    highs[unit] = sum.high;
    lows[unit] = sum.low;
    sync_cube();
    let mut before = Words {
        high: 0u32,
        low: 0u32,
    };
    let mut whole = Words {
        high: 0u32,
        low: 0u32,
    };
    let mut other = 0usize;
    while other < units {
        let stretch = Words {
            high: highs[other],
            low: lows[other],
        };
        if other < unit {
            before = plus(before, stretch);
        }
        whole = plus(whole, stretch);
        other += 1;
    }
    sync_cube();
    let (passed, _below) = share_of(whole, uniform);
    let mut first = vocab as u32;
    let mut last = 0u32;
    rank = first_rank;
    let mut at = from;
    while at < to {
        let bits = weights[own + at];
        if bits > 0u32 && (bits > cut || (bits == cut && rank < equals)) {
            before = plus(before, of_weight(bits));
            last = at as u32;
            if !reaches(passed, before) && first == vocab as u32 {
                first = at as u32;
            }
        }
        if bits == cut {
            rank += 1u32;
        }
        at += 1;
    }
    let first = over_units(first, unit, highs, units, Fold::Least);
    let last = over_units(last, unit, highs, units, Fold::Most);
    let mut chosen = first;
    if first == vocab as u32 {
        chosen = last;
    }
    chosen
}

/// How many tokens before a unit's stretch have just these bits.
#[cube]
fn equals_before(
    weights: &mut Tensor<u32>,
    own: usize,
    bits: u32,
    from: usize,
    to: usize,
    unit: usize,
    highs: &mut Shared<[u32]>,
) -> u32 {
    let mut count = 0u32;
    let mut at = from;
    while at < to {
        if weights[own + at] == bits {
            count += 1u32;
        }
        at += 1;
    }
    highs[unit] = count;
    sync_cube();
    let mut before = 0u32;
    let mut other = 0usize;
    while other < unit {
        before += highs[other];
        other += 1;
    }
    sync_cube();
    before
}

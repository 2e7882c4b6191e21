//! Sums of weights, and which weights come to one.

use cubecl::prelude::*;

use super::units::{add_to, total};
use super::words::{Words, of_weight, plus, reaches};

/// One above the bits of 1, the largest weight.
const ABOVE_ONE: u32 = 0x3f80_0001;

/// Quarterings that find a number below it: 4^15 is more.
const QUARTERINGS: u32 = 15;

/// Numbers that part a range into quarters.
pub(super) const PARTINGS: usize = 3;

/// The largest bits, at least `cut`, for which the weights that have as many come to `enough`: their sum or, where that is
/// asked for, their count.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's parts have no struct to share"
)]
pub(super) fn smallest_left(
    weights: &mut Tensor<u32>,
    own: usize,
    vocab: usize,
    cut: u32,
    enough: Words,
    unit: usize,
    highs: &mut Shared<[u32]>,
    lows: &mut Shared<[u32]>,
    #[comptime] units: usize,
    #[comptime] counted: bool,
) -> u32 {
    let mut below = cut;
    let mut above = ABOVE_ONE.runtime();
    let mut partings = Array::<u32>::new(PARTINGS);
    for _ in 0..QUARTERINGS {
        let range = above - below;
        #[unroll]
        for part in 0..PARTINGS {
            partings[part] = below + range * comptime!(part as u32 + 1) / 4u32;
        }
        add_parts(
            weights, own, vocab, &partings, unit, highs, lows, units, counted,
        );
        let mut next_below = below;
        let mut next_above = above;
        #[unroll]
        for part in 0..PARTINGS {
            let sum = Words {
                high: highs[comptime!(part * units)],
                low: lows[comptime!(part * units)],
            };
            if reaches(sum, enough) {
                next_below = partings[part];
            } else if partings[part] < next_above {
                next_above = partings[part];
            }
        }
        below = next_below;
        above = next_above;
        sync_cube();
    }
    below
}

/// For each of `partings` the sum, or count, of the weights whose bits are at least that; in the first place of a stretch
/// of `units` places of `highs` and `lows`.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's parts have no struct to share"
)]
fn add_parts(
    weights: &mut Tensor<u32>,
    own: usize,
    vocab: usize,
    partings: &Array<u32>,
    unit: usize,
    highs: &mut Shared<[u32]>,
    lows: &mut Shared<[u32]>,
    #[comptime] units: usize,
    #[comptime] counted: bool,
) {
    let mut own_highs = Array::<u32>::new(PARTINGS);
    let mut own_lows = Array::<u32>::new(PARTINGS);
    #[unroll]
    for part in 0..PARTINGS {
        own_highs[part] = 0u32;
        own_lows[part] = 0u32;
    }
    let mut at = unit;
    while at < vocab {
        let bits = weights[own + at];
        let mut further = Words {
            high: 0u32,
            low: 1u32,
        };
        if comptime!(!counted) {
            further = of_weight(bits);
        }
        #[unroll]
        for part in 0..PARTINGS {
            if bits >= partings[part] {
                let so_far = Words {
                    high: own_highs[part],
                    low: own_lows[part],
                };
                let sum = plus(so_far, further);
                own_highs[part] = sum.high;
                own_lows[part] = sum.low;
            }
        }
        at += units;
    }
    #[unroll]
    for part in 0..PARTINGS {
        highs[unit + comptime!(part * units)] = own_highs[part];
        lows[unit + comptime!(part * units)] = own_lows[part];
    }
    sync_cube();
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width {
            #[unroll]
            for part in 0..PARTINGS {
                add_to(unit + comptime!(part * units), width, highs, lows);
            }
        }
        sync_cube();
        width /= 2;
    }
}

/// The sum of the weights whose bits are at least `cut`.
#[cube]
#[allow(
    clippy::too_many_arguments,
    reason = "a kernel's parts have no struct to share"
)]
pub(super) fn kept(
    weights: &mut Tensor<u32>,
    own: usize,
    vocab: usize,
    cut: u32,
    unit: usize,
    highs: &mut Shared<[u32]>,
    lows: &mut Shared<[u32]>,
    #[comptime] units: usize,
) -> Words {
    let mut sum = Words {
        high: 0u32,
        low: 0u32,
    };
    let mut at = unit;
    while at < vocab {
        let bits = weights[own + at];
        if bits >= cut {
            sum = plus(sum, of_weight(bits));
        }
        at += units;
    }
    total(sum, unit, highs, lows, units)
}

/// How many of the weights that have just these bits come, with the sum of those above, to `enough`.
#[cube]
pub(super) fn equals_left(above: Words, bits: u32, enough: Words, vocab: usize) -> u32 {
    let each = of_weight(bits);
    let mut sum = above;
    let mut count = 0u32;
    while count < vocab as u32 && !reaches(sum, enough) {
        sum = plus(sum, each);
        count += 1u32;
    }
    count
}

//! Sums of weights, and which weights come to one.

use cubecl::prelude::*;

use super::words::{fixed_high, fixed_low};

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
    enough_high: u32,
    enough_low: u32,
    unit: usize,
    highs: &mut Shared<[u32]>,
    lows: &mut Shared<[u32]>,
    #[comptime] units: usize,
    #[comptime] counted: bool,
) -> u32 {
    let mut below = cut;
    let mut above = ABOVE_ONE.runtime();
    let mut own_highs = Array::<u32>::new(PARTINGS);
    let mut own_lows = Array::<u32>::new(PARTINGS);
    let mut partings = Array::<u32>::new(PARTINGS);
    for _ in 0..QUARTERINGS {
        let range = above - below;
        #[unroll]
        for part in 0..PARTINGS {
            own_highs[part] = 0u32;
            own_lows[part] = 0u32;
            partings[part] = below + range * comptime!(part as u32 + 1) / 4u32;
        }
        let mut at = unit;
        while at < vocab {
            let bits = weights[own + at];
            let mut high = 0u32;
            let mut low = 1u32;
            if comptime!(!counted) {
                high = fixed_high(f32::reinterpret(bits));
                low = fixed_low(f32::reinterpret(bits));
            }
            #[unroll]
            for part in 0..PARTINGS {
                if bits >= partings[part] {
                    let sum = own_lows[part] + low;
                    own_lows[part] = sum;
                    own_highs[part] += high;
                    if sum < low {
                        own_highs[part] += 1u32;
                    }
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
        let mut next_below = below;
        let mut next_above = above;
        #[unroll]
        for part in 0..PARTINGS {
            let high = highs[comptime!(part * units)];
            let low = lows[comptime!(part * units)];
            if high > enough_high || (high == enough_high && low >= enough_low) {
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

/// The sum of the weights whose bits are at least `cut`, in the first places of `highs` and `lows`.
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
) {
    let mut high = 0u32;
    let mut low = 0u32;
    let mut at = unit;
    while at < vocab {
        let bits = weights[own + at];
        if bits >= cut {
            let further = fixed_low(f32::reinterpret(bits));
            low += further;
            high += fixed_high(f32::reinterpret(bits));
            if low < further {
                high += 1u32;
            }
        }
        at += units;
    }
    highs[unit] = high;
    lows[unit] = low;
    sync_cube();
    add_up(unit, highs, lows, units);
}

/// Adds the units' numbers of two words, in their first places.
#[cube]
pub(super) fn add_up(
    unit: usize,
    highs: &mut Shared<[u32]>,
    lows: &mut Shared<[u32]>,
    #[comptime] units: usize,
) {
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width {
            add_to(unit, width, highs, lows);
        }
        sync_cube();
        width /= 2;
    }
}

/// Adds the number of two words at `place + width` to that at `place`.
#[cube]
fn add_to(place: usize, width: usize, highs: &mut Shared<[u32]>, lows: &mut Shared<[u32]>) {
    let further = lows[place + width];
    let sum = lows[place] + further;
    lows[place] = sum;
    let mut carried = 0u32;
    if sum < further {
        carried = 1u32;
    }
    highs[place] = highs[place] + highs[place + width] + carried;
}

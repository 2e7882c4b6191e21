//! The kernels: what is dropped of a sample's inputs is drawn from the sample's own stream, a stretch of it by each cube.

use cubecl::prelude::*;

use crate::ops::cube::{Fold, over_units};

/// Words of a stream's key.
pub(super) const SEED: usize = 8;

/// Draws in a block of the stream: 16 words of 32 bits.
pub(super) const DRAWS: usize = 8;

/// One round on four words of the state (Bernstein 2008).
#[cube]
fn quarter(
    state: &mut Array<u32>,
    #[comptime] a: usize,
    #[comptime] b: usize,
    #[comptime] c: usize,
    #[comptime] d: usize,
) {
    let (mut x, mut y, mut z, mut w) = (state[a], state[b], state[c], state[d]);
    x += y;
    w = turned(w ^ x, 16u32);
    z += w;
    y = turned(y ^ z, 12u32);
    x += y;
    w = turned(w ^ x, 8u32);
    z += w;
    y = turned(y ^ z, 7u32);
    state[a] = x;
    state[b] = y;
    state[c] = z;
    state[d] = w;
}

#[allow(clippy::manual_rotate, reason = "kernels have no rotation")]
#[cube]
fn turned(word: u32, by: u32) -> u32 {
    (word << by) | (word >> (32u32 - by))
}

/// The first words of a block's state: the constants, the key, the block's number.
#[cube]
fn first(seeds: &Tensor<u32>, seed: usize, block: u32, #[comptime] index: usize) -> u32 {
    let constants = comptime!([0x6170_7865u32, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    if comptime!(index < 4) {
        comptime!(constants[index]).runtime()
    } else if comptime!(index < 12) {
        seeds[seed + comptime!(index - 4)]
    } else if comptime!(index == 12) {
        block
    } else {
        0u32.runtime()
    }
}

/// A block of the ChaCha8 stream with this key: what `rand_chacha` gives, two words a draw, the lower first.
#[cube]
fn fill(state: &mut Array<u32>, seeds: &Tensor<u32>, seed: usize, block: u32) {
    #[unroll]
    for index in 0..16usize {
        state[index] = first(seeds, seed, block, index);
    }
    for _round in 0..4u32 {
        quarter(state, 0usize, 4usize, 8usize, 12usize);
        quarter(state, 1usize, 5usize, 9usize, 13usize);
        quarter(state, 2usize, 6usize, 10usize, 14usize);
        quarter(state, 3usize, 7usize, 11usize, 15usize);
        quarter(state, 0usize, 5usize, 10usize, 15usize);
        quarter(state, 1usize, 6usize, 11usize, 12usize);
        quarter(state, 2usize, 7usize, 8usize, 13usize);
        quarter(state, 3usize, 4usize, 9usize, 14usize);
    }
    #[unroll]
    for index in 0..16usize {
        let own = state[index];
        state[index] = own + first(seeds, seed, block, index);
    }
}

/// How many of the thresholds a draw of two words reaches, of its upper 53 bits.
#[cube]
fn gap(thresholds: &Tensor<u32>, low_word: u32, high_word: u32) -> u32 {
    let high = high_word >> 11u32;
    let low = (low_word >> 11u32) | (high_word << 21u32);
    let mut from = 0usize.runtime();
    let mut to = thresholds.shape(0);
    while from < to {
        let middle = (from + to) / 2usize;
        let (at_high, at_low) = (thresholds[middle * 2], thresholds[middle * 2 + 1]);
        if at_high < high || (at_high == high && at_low <= low) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    from as u32
}

/// A unit's draws of a block: of each how far on it drops an input, in `state`; gives their sum.
#[cube]
fn steps(
    state: &mut Array<u32>,
    seeds: &Tensor<u32>,
    seed: usize,
    thresholds: &Tensor<u32>,
    block: u32,
) -> u32 {
    fill(state, seeds, seed, block);
    let mut own = 0u32;
    #[unroll]
    for draw in 0..comptime!(DRAWS) {
        let (low, high) = (state[comptime!(2 * draw)], state[comptime!(2 * draw + 1)]);
        let step = gap(thresholds, low, high) + 1u32;
        state[draw] = step;
        own += step;
    }
    own
}

/// How far the draws of each stretch reach together: `sums`, `[samples, stretches]`. A cube has one; a unit a block of it.
#[cube(launch)]
pub(super) fn sums_kernel(
    seeds: &Tensor<u32>,
    thresholds: &Tensor<u32>,
    sums: &mut Tensor<u32>,
    layer: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS_X as usize;
    let (sample, stretch) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    let seed = (layer * sums.shape(0) + sample) * comptime!(SEED);
    let mut shared = Shared::<[u32]>::new_slice(units);
    let mut state = Array::<u32>::new(16usize);
    let block = CUBE_POS_Y * comptime!(units as u32) + UNIT_POS_X;
    let own = steps(&mut state, seeds, seed, thresholds, block);
    let sum = over_units::<u32>(own, unit, &mut shared, units, Fold::Sum);
    if unit == 0 {
        let place = sample * sums.stride(0) + stretch * sums.stride(1);
        sums[place] = sum;
    }
}

/// `seeds`: `[layers * samples, SEED]`; `rows`: `[samples + 1]`; `thresholds`: `[gaps, 2]`, the upper word first; `sums`: what
/// [`sums_kernel`] gives, of stretches but the last. Clears the bit of each dropped input in `words`, which has a bit for
/// each input. The last stretch goes on as long as there are inputs.
#[cube(launch)]
pub(super) fn draw_kernel(
    seeds: &Tensor<u32>,
    rows: &Tensor<u32>,
    thresholds: &Tensor<u32>,
    sums: &Tensor<u32>,
    words: &mut Tensor<Atomic<u32>>,
    layer: usize,
    width: u32,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS_X as usize;
    let (sample, stretch) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    let seed = (layer * sums.shape(0) + sample) * comptime!(SEED);
    let start = rows[sample] * width;
    let count = rows[sample + 1] * width - start;
    let mut ends = Shared::<[u32]>::new_slice(units);
    let mut earlier = 0u32;
    let mut at = unit;
    while at < stretch {
        earlier += sums[sample * sums.stride(0) + at * sums.stride(1)];
        at += units;
    }
    let mut base = over_units::<u32>(earlier, unit, &mut ends, units, Fold::Sum);
    let mut state = Array::<u32>::new(16usize);
    let mut block = CUBE_POS_Y * comptime!(units as u32) + UNIT_POS_X;
    while base < count {
        let own = steps(&mut state, seeds, seed, thresholds, block);
        ends[unit] = own;
        sync_cube();
        let mut reach = 1usize.runtime();
        while reach < units {
            let mut earlier = 0u32;
            if unit >= reach {
                earlier = ends[unit - reach];
            }
            sync_cube();
            ends[unit] += earlier;
            sync_cube();
            reach *= 2;
        }
        let mut at = base + ends[unit] - own;
        #[unroll]
        for draw in 0..comptime!(DRAWS) {
            at += state[draw];
            if at <= count {
                let input = start + at - 1u32;
                let bit = 1u32 << (input % 32u32);
                words[(input / 32u32) as usize].fetch_and(bit ^ 0xffff_ffffu32);
            }
        }
        base += ends[units - 1];
        if stretch + 1 < sums.shape(1) {
            base = count;
        }
        block += comptime!(units as u32);
        sync_cube();
    }
}

/// `out`: what of `x` stays, times `factor`; both `[rows, width]`, `out` without gaps.
#[cube(launch)]
pub(super) fn apply_kernel<F: Float>(
    x: &Tensor<F>,
    words: &Tensor<u32>,
    out: &mut Tensor<F>,
    factor: f32,
) {
    if ABSOLUTE_POS < out.len() {
        let (row, column) = (ABSOLUTE_POS / out.shape(1), ABSOLUTE_POS % out.shape(1));
        let word = words[ABSOLUTE_POS / 32];
        let mut value = f32::new(0.0);
        if (word >> (ABSOLUTE_POS as u32 % 32u32)) & 1u32 == 1u32 {
            value = f32::cast_from(x[row * x.stride(0) + column * x.stride(1)]) * factor;
        }
        out[ABSOLUTE_POS] = F::cast_from(value);
    }
}

//! Weights of tokens, and whole numbers of two words that stand for them and their sums: multiples of 2^-45.

use std::f32::consts::LOG2_E;

use cubecl::prelude::*;

/// A whole number of two words.
#[derive(CubeType, CubeTypeMut, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Words {
    pub(super) high: u32,
    pub(super) low: u32,
}

/// `exp(x)` for `x` up to 0, as the processor has it: a power of two and SLEEF's polynomial.
#[cube]
pub(super) fn weight_of(x: f32) -> f32 {
    let mut weight = 0.0f32;
    if x >= -87.3f32 {
        let n = (x * LOG2_E).round();
        let r = fma(n, -1.428_606_8e-6f32, fma(n, -0.693_145_75f32, x));
        let mut p = 1.985_276_2e-4f32;
        p = fma(p, r, 1.393_043_6e-3f32);
        p = fma(p, r, 8.333_361e-3f32);
        p = fma(p, r, 4.166_648_5e-2f32);
        p = fma(p, r, 1.666_666_7e-1f32);
        p = fma(p, r, 0.5f32);
        let value = fma(p, r * r, r) + 1.0f32;
        let power = u32::cast_from(i32::cast_from(n) + 127i32) << 23u32;
        weight = value * f32::reinterpret(power);
    }
    weight
}

/// A weight, which its bits stand for, in multiples of 2^-45.
#[cube]
pub(super) fn of_weight(bits: u32) -> Words {
    let scaled = f32::reinterpret(bits) * 8192.0f32;
    Words {
        high: u32::cast_from(scaled),
        low: u32::cast_from((scaled - scaled.floor()) * 4_294_967_296.0f32),
    }
}

/// The sum.
#[cube]
pub(super) fn plus(a: Words, b: Words) -> Words {
    let low = a.low + b.low;
    let mut high = a.high + b.high;
    if low < b.low {
        high += 1u32;
    }
    Words { high, low }
}

/// Whether `a` is at least `b`.
#[cube]
pub(super) fn reaches(a: Words, b: Words) -> bool {
    a.high > b.high || (a.high == b.high && a.low >= b.low)
}

/// The upper word of a product of two.
#[cube]
fn product_high(a: u32, b: u32) -> u32 {
    let a_low = a & 0xffffu32;
    let a_high = a >> 16u32;
    let b_low = b & 0xffffu32;
    let b_high = b >> 16u32;
    let middle = a_low * b_high + ((a_low * b_low) >> 16u32);
    let other = a_high * b_low + (middle & 0xffffu32);
    a_high * b_high + (middle >> 16u32) + (other >> 16u32)
}

/// `part / 2^32` of a number, rounded down.
#[cube]
fn part_of(whole: Words, part: u32) -> Words {
    let carried = product_high(whole.low, part);
    let low = whole.high * part + carried;
    let mut high = product_high(whole.high, part);
    if low < carried {
        high += 1u32;
    }
    Words { high, low }
}

/// `share / 2^64` of a number, rounded down; and the 32 bits below.
#[cube]
pub(super) fn share_of(whole: Words, share: Words) -> (Words, u32) {
    let coarse = part_of(whole, share.high);
    let fine = part_of(whole, share.low);
    let fraction = whole.low * share.high + fine.low;
    let mut carried = fine.high;
    if fraction < fine.low {
        carried += 1u32;
    }
    let further = Words {
        high: 0u32,
        low: carried,
    };
    (plus(coarse, further), fraction)
}

/// What sums have to come to for a share of a number: that share less 2^-52 of it, rounded up. For nine tenths of ten equals
/// are nine of them, as they are in floats of 64 bits.
#[cube]
pub(super) fn enough_of(whole: Words, share: Words) -> Words {
    let (exact, fraction) = share_of(whole, share);
    let less = (exact.high & 0xf_ffffu32) << 12u32;
    let mut borrowed = exact.high >> 20u32;
    if fraction < less {
        borrowed += 1u32;
    }
    let mut high = exact.high;
    if exact.low < borrowed {
        high -= 1u32;
    }
    let down = Words {
        high,
        low: exact.low - borrowed,
    };
    let mut up = 0u32;
    if fraction != less {
        up = 1u32;
    }
    let up = Words {
        high: 0u32,
        low: up,
    };
    plus(down, up)
}

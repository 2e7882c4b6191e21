//! Weights of tokens, and whole numbers of two words that stand for them: multiples of 2^-45.

use std::f32::consts::LOG2_E;

use cubecl::prelude::*;

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

/// The upper word of a weight in multiples of 2^-45: multiples of 2^-13.
#[cube]
pub(super) fn fixed_high(weight: f32) -> u32 {
    u32::cast_from(weight * 8192.0f32)
}

/// The lower word.
#[cube]
pub(super) fn fixed_low(weight: f32) -> u32 {
    let scaled = weight * 8192.0f32;
    u32::cast_from((scaled - scaled.floor()) * 4_294_967_296.0f32)
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

/// The upper word of `part / 2^32` of a number of two words.
#[cube]
pub(super) fn part_high(high: u32, low: u32, part: u32) -> u32 {
    let carried = product_high(low, part);
    let mut result = product_high(high, part);
    let lower = high * part + carried;
    if lower < carried {
        result += 1u32;
    }
    result
}

/// The lower word of it.
#[cube]
pub(super) fn part_low(high: u32, low: u32, part: u32) -> u32 {
    high * part + product_high(low, part)
}

//! Sums of words over the units of a cube.

use cubecl::prelude::*;

use super::words::{Words, plus};

/// The sum of all units' numbers.
#[cube]
pub(super) fn total(
    value: Words,
    unit: usize,
    highs: &mut Shared<[u32]>,
    lows: &mut Shared<[u32]>,
    #[comptime] units: usize,
) -> Words {
    highs[unit] = value.high;
    lows[unit] = value.low;
    sync_cube();
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width {
            add_to(unit, width, highs, lows);
        }
        sync_cube();
        width /= 2;
    }
    let result = Words {
        high: highs[0],
        low: lows[0],
    };
    sync_cube();
    result
}

/// Adds the number at `place + width` to that at `place`.
#[cube]
pub(super) fn add_to(
    place: usize,
    width: usize,
    highs: &mut Shared<[u32]>,
    lows: &mut Shared<[u32]>,
) {
    let own = Words {
        high: highs[place],
        low: lows[place],
    };
    let other = Words {
        high: highs[place + width],
        low: lows[place + width],
    };
    let sum = plus(own, other);
    highs[place] = sum.high;
    lows[place] = sum.low;
}

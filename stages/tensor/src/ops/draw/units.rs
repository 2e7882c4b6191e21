//! One number of the numbers that the units of a cube have.

use cubecl::prelude::*;

/// The largest of all units' values.
#[cube]
pub(super) fn largest(
    value: f32,
    unit: usize,
    shared: &mut Shared<[f32]>,
    #[comptime] units: usize,
) -> f32 {
    shared[unit] = value;
    sync_cube();
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width && shared[unit + width] > shared[unit] {
            shared[unit] = shared[unit + width];
        }
        sync_cube();
        width /= 2;
    }
    let result = shared[0];
    sync_cube();
    result
}

/// The sum over all units.
#[cube]
pub(super) fn total_count(
    value: u32,
    unit: usize,
    shared: &mut Shared<[u32]>,
    #[comptime] units: usize,
) -> u32 {
    shared[unit] = value;
    sync_cube();
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width {
            shared[unit] += shared[unit + width];
        }
        sync_cube();
        width /= 2;
    }
    let result = shared[0];
    sync_cube();
    result
}

/// The least of all units' values.
#[cube]
pub(super) fn least(
    value: u32,
    unit: usize,
    shared: &mut Shared<[u32]>,
    #[comptime] units: usize,
) -> u32 {
    shared[unit] = value;
    sync_cube();
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width && shared[unit + width] < shared[unit] {
            shared[unit] = shared[unit + width];
        }
        sync_cube();
        width /= 2;
    }
    let result = shared[0];
    sync_cube();
    result
}

/// The largest of all units' values.
#[cube]
pub(super) fn most(
    value: u32,
    unit: usize,
    shared: &mut Shared<[u32]>,
    #[comptime] units: usize,
) -> u32 {
    shared[unit] = value;
    sync_cube();
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width && shared[unit + width] > shared[unit] {
            shared[unit] = shared[unit + width];
        }
        sync_cube();
        width /= 2;
    }
    let result = shared[0];
    sync_cube();
    result
}

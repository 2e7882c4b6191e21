//! Places of patches in an image, and two-dimensional rotary angles, as the vision towers of the Qwen families have them.

use dcsft_tensor::ops::Rotary;

use crate::decoder::frequencies;

/// Row and column of each patch, in the order of the processor: merge blocks in raster order, patches in raster order
/// within a block. The grid is frames, rows and columns of patches.
pub(crate) fn patch_positions([t, h, w]: [usize; 3], merge: usize) -> Vec<[u32; 2]> {
    let mut positions = Vec::with_capacity(t * h * w);
    for _ in 0..t {
        for top in (0..h).step_by(merge) {
            for left in (0..w).step_by(merge) {
                for y in top..top + merge {
                    positions.extend((left..left + merge).map(|x| [y as u32, x as u32]));
                }
            }
        }
    }
    positions
}

/// Two-dimensional rotary angles for heads of `width` values: the first half of a head's pairs turns with the row, the
/// second with the column.
pub(crate) fn rotary(positions: &[[u32; 2]], theta: f64, width: usize) -> Rotary {
    let half = width / 2;
    let frequencies = frequencies(theta, half);
    let angles: Vec<f32> = positions
        .iter()
        .flatten()
        .flat_map(|&position| {
            frequencies
                .iter()
                .map(move |frequency| position as f32 * frequency)
        })
        .collect();
    Rotary::new(&angles, half)
}

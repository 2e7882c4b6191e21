//! The geometry of the vision tower: the order of patches by windows, who attends to whom, and rotary angles.
//!
//! Patches come in merge blocks (2x2 in the published models). Blocks are grouped into square windows; all but a
//! few layers attend within a window. The rows run in window order through the whole tower, so that every window is
//! a range of rows.

use dcsft_tensor::ops::{Pixels, Rotary, Span, Spans};

use super::config::VisionConfig;
use crate::axial::{patch_positions, rotary};
use crate::processor::{CHANNELS, Patches};

/// How the images of a batch run through the tower.
pub struct VisionPlan {
    /// Patches in window order, values of a patch in the order of [`VisionConfig::convolution_order`].
    pub pixels: Pixels,
    /// For each merged token in window order its place in the images' own order (`visual.window_index` in
    /// Transformers).
    pub window_index: Vec<u32>,
    /// For each merged token in the images' own order its place in window order.
    pub place: Vec<u32>,
    /// Windows.
    pub windows: Spans,
    /// Whole frames.
    pub frames: Spans,
    /// Angles of the rows, in window order.
    pub rotary: Rotary,
    /// Rows of each image.
    pub image_rows: Vec<usize>,
}

impl VisionPlan {
    /// Plans a batch of images.
    pub fn new(images: &[&Patches], config: &VisionConfig) -> Self {
        let block = config.spatial_merge_size.pow(2);
        let mut window_index = Vec::new();
        let (mut windows, mut frames) = (Vec::new(), Vec::new());
        for image in images {
            let first = window_index.len() as u32;
            for window in windows_of(image.grid, config) {
                let start = window_index.len() * block;
                window_index.extend(window.into_iter().map(|token| first + token));
                windows.push(whole(start..window_index.len() * block));
            }
            let [t, h, w] = image.grid;
            let start = first as usize * block;
            frames.extend((0..t).map(|t| whole(start + t * h * w..start + (t + 1) * h * w)));
        }
        let positions: Vec<[u32; 2]> = images
            .iter()
            .flat_map(|image| patch_positions(image.grid, config.spatial_merge_size))
            .collect();
        let order: Vec<u32> = window_index
            .iter()
            .flat_map(|&token| (0..block as u32).map(move |patch| token * block as u32 + patch))
            .collect();
        let patch = config.patch_size;
        let patches = images.iter();
        let patches: Vec<&[u8]> = patches
            .flat_map(|image| image.bytes.chunks_exact(CHANNELS * patch.pow(2)))
            .collect();
        let bytes = order.iter().flat_map(|&row| patches[row as usize]);
        let pixels = Patches::with_bytes(
            bytes.copied().collect(),
            images,
            patch,
            config.temporal_patch_size,
        );
        let columns = config.convolution_order().into_iter();
        let mut place = vec![0; window_index.len()];
        for (at, &token) in window_index.iter().enumerate() {
            place[token as usize] = at as u32;
        }
        Self {
            pixels: Pixels {
                columns: columns.map(|at| pixels.columns[at as usize]).collect(),
                ..pixels
            },
            window_index,
            place,
            windows: Spans::new(windows),
            frames: Spans::new(frames),
            rotary: rotary(&positions, config.rope_theta, config.head_dim()).take_rows(&order),
            image_rows: images
                .iter()
                .map(|image| image.grid.iter().product())
                .collect(),
        }
    }
}

fn whole(rows: std::ops::Range<usize>) -> Span {
    Span {
        prefix: 0..0,
        own: rows.clone(),
        queries: rows,
        causal: false,
    }
}

/// The merged tokens of each window of one image, by their index in the image; windows at the right and lower edge
/// are smaller.
fn windows_of([t, h, w]: [usize; 3], config: &VisionConfig) -> Vec<Vec<u32>> {
    let merge = config.spatial_merge_size;
    let side = config.window_size / merge / config.patch_size;
    let (h, w) = (h / merge, w / merge);
    let mut windows = Vec::new();
    for frame in 0..t {
        for top in (0..h).step_by(side) {
            for left in (0..w).step_by(side) {
                let rows = top..h.min(top + side);
                let columns = left..w.min(left + side);
                let token = |y| {
                    columns
                        .clone()
                        .map(move |x| ((frame * h + y) * w + x) as u32)
                };
                windows.push(rows.flat_map(token).collect());
            }
        }
    }
    windows
}

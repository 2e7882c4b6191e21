//! Sizes of pictures on their way from an image to its tiles.

/// No image is enlarged beyond it, whatever the settings say (`MAX_IMAGE_SIZE` in Transformers).
pub(super) const MOST_EDGE: usize = 4096;

/// Sizes of pictures on their way from an image to its tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuts {
    /// Pixels of the longer side after the first step.
    pub longest_edge: usize,
    /// Side of a tile, in pixels.
    pub tile: usize,
    /// Images are cut into tiles.
    pub splitting: bool,
}

impl Cuts {
    /// Most tiles along a side.
    pub(super) fn most(&self) -> usize {
        self.longest_edge.div_ceil(self.tile)
    }

    /// Height and width after the first step, in the reference's order of operations: one pixel can hang on it.
    pub fn enlarged(&self, height: usize, width: usize) -> [usize; 2] {
        let ratio = width as f64 / height as f64;
        let most = self.longest_edge;
        let even = |side: f64| {
            let side = side as usize;
            side + side % 2
        };
        let [height, width] = match width >= height {
            true => [even(most as f64 / ratio), most],
            false => [most, even(most as f64 * ratio)],
        };
        [height.max(1), width.max(1)]
    }

    /// Height and width after the second step: whole tiles.
    pub fn stretched(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let tile = self.tile;
        let ratio = width as f64 / height as f64;
        let whole = |side: usize| side.div_ceil(tile) * tile;
        match width >= height {
            true => {
                let width = whole(width);
                [whole((width as f64 / ratio) as usize), width]
            }
            false => {
                let height = whole(height);
                [height, whole((height as f64 * ratio) as usize)]
            }
        }
    }

    /// The picture in whole tiles, and rows and columns of them; none where it is its only tile.
    pub fn plan(&self, height: usize, width: usize) -> ([usize; 2], [usize; 2]) {
        let tile = self.tile;
        if !self.splitting {
            return ([tile, tile], [0, 0]);
        }
        let size = self.stretched(self.enlarged(height, width));
        match size.iter().any(|side| *side > tile) {
            true => (size, size.map(|side| side / tile)),
            false => (size, [0, 0]),
        }
    }
}

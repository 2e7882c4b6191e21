//! A family's vision tower as the rest sees it: its steps on a batch of images, and its sizes.

use dcsft_tensor::ops::Pixels;

use crate::pass::{Chain, Pass};

/// The images of a batch on their way through a family's vision tower.
pub trait Tower {
    /// What goes in, a row for a patch.
    fn pixels(&self) -> &Pixels;

    /// The row that leaves the tower for the image token `token`, counted over all images in their order.
    fn row_of(&self, token: usize) -> usize {
        token
    }

    /// Adds the steps from patches to rows as wide as the decoder's.
    fn steps<'a>(&'a self, pass: Pass<'a>, chain: &mut Chain<'a>);
}

/// Sizes of a vision tower, for estimates of memory.
#[derive(Clone, Debug, PartialEq)]
pub struct TowerShape {
    /// Values of a patch.
    pub patch_values: usize,
    /// Pixels of a patch.
    pub patch_pixels: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the MLP.
    pub inner: usize,
    /// Attention heads.
    pub heads: usize,
    /// The MLP is a SwiGLU.
    pub gated: bool,
    /// For each block the most rows that a row attends to; none for those of its whole image or tile.
    pub windows: Vec<Option<usize>>,
    /// Linear layers from patches to the decoder's width, one after the other: patches that make a row, and inputs and
    /// outputs. As often as there are such stacks.
    pub mergers: Vec<Vec<(usize, [usize; 2])>>,
}

/// What an image becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageCost {
    /// Rows of the vision tower.
    pub patches: f64,
    /// Of these the rows that attend to each other.
    pub together: f64,
    /// Tokens of the language model.
    pub tokens: f64,
}

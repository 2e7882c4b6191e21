//! Tokens drawn from logits where these are: of each row a token and a number come down, not the vocabulary.
//!
//! What is drawn is what the processor draws from the same logits, up to the rounding of sums in 32 bits where that works
//! in 64.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod device;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod kernel;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod pick;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod sums;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod units;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod words;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub use device::Drawer;
#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
pub use nowhere::Drawer;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// What logits are multiplied with; none takes the largest.
    pub inverse_temperature: Option<f32>,
    /// Only the `top_k` likeliest; 0 for all.
    pub top_k: usize,
    /// Only the likeliest that come to this share; 1 for all.
    pub top_p: f64,
    /// What makes a token less likely that was there already; 1 for nothing.
    pub penalty: f32,
}

/// One draw.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// The row of the logits.
    pub row: usize,
    /// Whose it is: the number of the answer.
    pub answer: usize,
    /// The random number, in `[0, 1)`.
    pub uniform: f64,
}

/// What one draw gives: the token and its log-probability before penalty, top-k and top-p; none where a logit of its row
/// is no number.
pub type Drawn = Option<(u32, f32)>;

/// In a build without devices of their own memory.
#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
mod nowhere {
    use burn::tensor::{Device, Tensor};

    use super::{Draw, Drawing, Drawn};
    use crate::host::CopyError;

    /// Draws the tokens of some answers; there is none in this build.
    pub enum Drawer {}

    impl Drawer {
        /// None: the logits are the processor's.
        pub fn new(_: Drawing, _: usize, _: &Device) -> Option<Self> {
            None
        }

        /// Nothing.
        pub fn enter(&mut self, _: &[usize], _: usize, _: &[&[u32]], _: usize) {
            match *self {}
        }

        /// A token each of `draws`.
        ///
        /// # Errors
        /// None.
        pub fn draw(&mut self, _: &Tensor<2>, _: &[Draw]) -> Result<Vec<Drawn>, CopyError> {
            match *self {}
        }
    }
}

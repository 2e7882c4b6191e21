//! PNG files of the figures, drawn with an embedded font, since a machine may have none.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb::Database};

/// Pixels per SVG unit: sharp in print and on dense screens.
const SCALE: f32 = 2.0;

/// Why a figure has no PNG.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PngError {
    /// The SVG could not be read.
    #[error("the figure is not valid SVG: {0}")]
    Svg(#[from] resvg::usvg::Error),
    /// The drawing has no area or is too large for memory.
    #[error("the figure cannot be drawn at {width} x {height} pixels")]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Encoding failed.
    #[error("the PNG could not be encoded: {0}")]
    Encode(String),
}

/// Draws SVG text to PNG bytes.
pub(crate) struct Renderer {
    options: Options<'static>,
}

impl Renderer {
    /// A renderer with the embedded font (Ubuntu Light, Ubuntu Font Licence 1.0).
    pub(crate) fn new() -> Self {
        let mut fonts = Database::new();
        fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
        fonts.set_sans_serif_family("Ubuntu");
        let options = Options {
            fontdb: Arc::new(fonts),
            font_family: "Ubuntu".to_owned(),
            ..Options::default()
        };
        Self { options }
    }

    /// PNG bytes of `svg` at twice its size.
    ///
    /// # Errors
    /// [`PngError`].
    pub(crate) fn png(&self, svg: &str) -> Result<Vec<u8>, PngError> {
        let tree = Tree::from_str(svg, &self.options)?;
        let (width, height) = (tree.size().width() * SCALE, tree.size().height() * SCALE);
        let (width, height) = (width.ceil() as u32, height.ceil() as u32);
        let mut pixels = Pixmap::new(width, height).ok_or(PngError::Size { width, height })?;
        resvg::render(
            &tree,
            Transform::from_scale(SCALE, SCALE),
            &mut pixels.as_mut(),
        );
        pixels
            .encode_png()
            .map_err(|error| PngError::Encode(error.to_string()))
    }
}

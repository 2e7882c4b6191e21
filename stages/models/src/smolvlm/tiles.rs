//! How SmolVLM prepares images: enlarged to a longest edge, stretched to whole tiles, and cut; the whole picture comes
//! last, as one more tile. `preprocessor_config.json`.

mod cuts;
mod settings;

use std::path::Path;
use std::sync::Arc;

use dcsft_tensor::ops::Levels;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{RgbImage, Tokenizer as _};
use serde_json::{Map, Value};

use super::config::{self, Vision};
use crate::family::Encode;
use crate::folder::{CONFIG, fault, read_json};
use crate::processor::images::{self, Grid, Images, Patches, block_order};
use crate::processor::resize::{Filter, Resampling, resize};
use crate::processor::{Files, HubTokenizer};

pub use cuts::Cuts;
use settings::{PROCESSOR, read};

/// Texts around the tokens of a tile.
const AROUND: &str = "<fake_token_around_image>";
const GLOBAL: &str = "<global-img>";

/// The image settings, and the tokens that stand for tiles.
#[derive(Clone, Debug)]
pub struct Tiles {
    /// How images are cut.
    pub cuts: Cuts,
    levels: Arc<Levels>,
    vision: Vision,
    tokens: Tokens,
}

/// Token ids of the texts that stand between the tokens of tiles.
#[derive(Clone, Debug, Default)]
struct Tokens {
    around: Vec<u32>,
    global: Vec<u32>,
    line: Vec<u32>,
    /// A line's end and the empty line after it.
    end: Vec<u32>,
    /// By row and column.
    places: Vec<Vec<Vec<u32>>>,
}

impl Tokens {
    fn new(encode: Encode<'_>, most: usize) -> Result<Self, VlmError> {
        let place =
            |row: usize, column: usize| encode(&format!("<row_{}_col_{}>", row + 1, column + 1));
        let row = |row| (0..most).map(|column| place(row, column)).collect();
        Ok(Self {
            around: encode(AROUND)?,
            global: encode(GLOBAL)?,
            line: encode("\n")?,
            end: encode("\n\n")?,
            places: (0..most).map(row).collect::<Result<_, _>>()?,
        })
    }
}

impl Tiles {
    /// The settings in a checkpoint's folder.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub fn load(dir: &Path) -> Result<Self, VlmError> {
        let path = dir.join(CONFIG);
        let config: Map<String, Value> = read_json(&path)?;
        let (vision, text, _) = config::parse(&config).map_err(|problem| fault(&path, problem))?;
        let files = Files::load(dir)?;
        let tokenizer = HubTokenizer::load(&files, text.vocab, String::new())?;
        Self::find(&files, &vision, Some(&|text| tokenizer.encode(text)))
    }

    /// The settings in a processor's files; without `encode` their tokens are left out.
    ///
    /// # Errors
    /// [`VlmError::Config`] with the file: a step switched off, another filter, tiles that are not those of the model.
    pub fn find(
        files: &Files,
        vision: &Vision,
        encode: Option<Encode<'_>>,
    ) -> Result<Self, VlmError> {
        let (cuts, levels) = images::find(files, &PROCESSOR, |fields| read(fields, vision.tile))?;
        let mut tiles = Self {
            cuts,
            levels: Arc::new(levels),
            vision: vision.clone(),
            tokens: Tokens::default(),
        };
        if let Some(encode) = encode {
            tiles.tokens = Tokens::new(encode, tiles.cuts.most())?;
        }
        Ok(tiles)
    }

    /// The pictures that an image is looked at in: tiles row by row, then the whole.
    ///
    /// # Errors
    /// [`VlmError::Config`] where the image's sizes and pixels do not fit together.
    pub fn pictures(&self, image: &RgbImage) -> Result<Vec<RgbImage>, VlmError> {
        let tile = self.cuts.tile;
        let sized = |image: &RgbImage, [height, width]: [usize; 2]| {
            resize(image, height, width, Filter::Lanczos, Resampling::Pillow)
        };
        let (height, width) = (image.height as usize, image.width as usize);
        self.grid(height, width)?;
        let enlarged = sized(image, self.cuts.enlarged(height, width))?;
        let (size, [rows, columns]) = self.cuts.plan(height, width);
        let whole = sized(&enlarged, size)?;
        let mut pictures = Vec::with_capacity(rows * columns + 1);
        for row in 0..rows {
            for column in 0..columns {
                pictures.push(cropped(&whole, row * tile, column * tile, tile));
            }
        }
        pictures.push(sized(&whole, [tile, tile])?);
        Ok(pictures)
    }

    /// The patches of one picture, those of a token one after the other.
    fn cut(&self, picture: &RgbImage, bytes: &mut Vec<u8>) {
        let Vision { patch, shuffle, .. } = self.vision;
        let side = self.vision.side();
        images::cut(picture, patch, block_order(side, side, shuffle), bytes);
    }
}

/// A square of an image.
fn cropped(image: &RgbImage, top: usize, left: usize, side: usize) -> RgbImage {
    let line = image.width as usize * 3;
    let rows = (top..top + side).flat_map(|y| &image.pixels[y * line + left * 3..][..side * 3]);
    RgbImage {
        width: side as u32,
        height: side as u32,
        pixels: rows.copied().collect(),
    }
}

impl Images for Tiles {
    fn grid(&self, height: usize, width: usize) -> Result<Grid, VlmError> {
        if height == 0 || width == 0 {
            return Err(VlmError::Config(format!(
                "an image of {width} x {height} pixels cannot be cut into tiles"
            )));
        }
        let (_, [rows, columns]) = self.cuts.plan(height, width);
        Ok([rows * columns + 1, rows, columns])
    }

    fn expansion(&self, [_, rows, columns]: Grid) -> Vec<u32> {
        let (tokens, tile) = (
            &self.tokens,
            vec![self.vision.image_token; self.vision.tokens()],
        );
        let mut ids = Vec::new();
        for row in 0..rows {
            for column in 0..columns {
                ids.extend(&tokens.around);
                ids.extend(&tokens.places[row][column]);
                ids.extend(&tile);
            }
            ids.extend(match row + 1 == rows {
                true => &tokens.end,
                false => &tokens.line,
            });
        }
        for part in [&tokens.around, &tokens.global, &tile, &tokens.around] {
            ids.extend(part);
        }
        ids
    }

    fn patches(&self, image: &RgbImage) -> Result<Patches, VlmError> {
        let grid = self.grid(image.height as usize, image.width as usize)?;
        let mut bytes = Vec::new();
        for picture in self.pictures(image)? {
            self.cut(&picture, &mut bytes);
        }
        Ok(Patches {
            bytes,
            levels: self.levels.clone(),
            grid,
        })
    }

    /// In whole tiles a picture goes through both steps unchanged; where that is not smaller, it stays what it is.
    fn shrunk(&self, image: &RgbImage) -> Result<RgbImage, VlmError> {
        let (height, width) = (image.height as usize, image.width as usize);
        self.grid(height, width)?;
        let (size, _) = self.cuts.plan(height, width);
        let stays = self.cuts.plan(size[0], size[1]).0 == size
            && self.cuts.enlarged(size[0], size[1]) == size;
        if !self.cuts.splitting || !stays || size[0] * size[1] >= height * width {
            return Ok(image.clone());
        }
        let sized = |image: &RgbImage, [height, width]: [usize; 2]| {
            resize(image, height, width, Filter::Lanczos, Resampling::Pillow)
        };
        sized(&sized(image, self.cuts.enlarged(height, width))?, size)
    }

    fn seen(&self, width: u32, height: u32) -> Result<(u32, u32), VlmError> {
        self.grid(height as usize, width as usize)?;
        let ([height, width], _) = self.cuts.plan(height as usize, width as usize);
        Ok((width as u32, height as u32))
    }

    fn limits(&self) -> [usize; 2] {
        let most = match self.cuts.splitting {
            true => self.cuts.longest_edge.pow(2),
            false => self.cuts.tile.pow(2),
        };
        [1, most]
    }

    /// A largest area is that of a square as long as the longest edge in whole tiles.
    fn with_pixels(
        &self,
        min: Option<usize>,
        max: Option<usize>,
    ) -> Result<Arc<dyn Images>, VlmError> {
        let tile = self.cuts.tile;
        let problem = if min.is_some() {
            "`min_pixels` has no effect on this family: every image is enlarged to its longest edge; take it out".into()
        } else {
            let longest_edge =
                max.map_or(self.cuts.longest_edge, |most| most.isqrt() / tile * tile);
            if longest_edge > 0 && longest_edge <= self.cuts.longest_edge {
                let cuts = Cuts {
                    longest_edge,
                    ..self.cuts
                };
                return Ok(Arc::new(Self {
                    cuts,
                    ..self.clone()
                }));
            }
            let (least, most) = (tile.pow(2), self.cuts.longest_edge.pow(2));
            format!(
                "`max_pixels` must be from {least}, one tile, to {most}, the longest edge of {} squared",
                self.cuts.longest_edge
            )
        };
        Err(VlmError::Config(problem))
    }
}

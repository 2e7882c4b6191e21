//! How SmolVLM prepares images: enlarged to a longest edge, stretched to whole tiles, and cut; the whole picture comes
//! last, as one more tile. `preprocessor_config.json`.

use std::path::Path;
use std::sync::Arc;

use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{RgbImage, Tokenizer as _};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::{self, Vision};
use crate::family::Encode;
use crate::fields::{Known, Only};
use crate::folder::{CONFIG, fault, read_json};
use crate::processor::images::{self, Grid, Images, Patches, block_order};
use crate::processor::resize::{Filter, Resampling, resize};
use crate::processor::{Files, HubTokenizer};

const KNOWN: Known = Known {
    read: &[&[
        "do_image_splitting",
        "do_normalize",
        "do_rescale",
        "do_resize",
        "image_mean",
        "image_std",
        "max_image_size",
        "resample",
        "rescale_factor",
        "size",
    ]],
    idle: &[&[
        "_processor_class",
        "default_to_square",
        "device",
        "disable_grouping",
        "do_pad",
        "feature_extractor_type",
        "input_data_format",
        "processor_class",
        "return_row_col_info",
        "return_tensors",
        "video_sampling",
    ]],
    only: &[&[
        ("crop_size", Only::Off),
        ("data_format", Only::Text(&["channels_first"])),
        ("do_center_crop", Only::Off),
        ("do_convert_rgb", Only::True),
        (
            "image_processor_type",
            Only::Text(&[
                "SmolVLMImageProcessor",
                "SmolVLMImageProcessorFast",
                "SmolVLMImageProcessorPil",
                "Idefics3ImageProcessor",
                "Idefics3ImageProcessorFast",
                "Idefics3ImageProcessorPil",
            ]),
        ),
        ("pad_size", Only::Off),
    ]],
    ..Known::NOTHING
};

/// `processor_config.json`; how many tokens a tile has follows from the model's own sizes.
const PROCESSOR: Known = Known {
    read: &[&["image_processor", "image_seq_len"]],
    idle: &[&["processor_class", "video_processor"]],
    ..Known::NOTHING
};

/// The parts of the file that matter here; what it leaves out has Transformers' default.
#[derive(Deserialize)]
struct File {
    do_image_splitting: Option<bool>,
    do_normalize: Option<bool>,
    do_rescale: Option<bool>,
    do_resize: Option<bool>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
    max_image_size: Option<Edge>,
    resample: Option<u32>,
    rescale_factor: Option<f64>,
    size: Option<Edge>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edge {
    longest_edge: usize,
}

/// PIL's number of Lanczos's filter.
const LANCZOS: u32 = 1;
/// No image is enlarged beyond it, whatever the settings say (`MAX_IMAGE_SIZE` in Transformers).
const MOST_EDGE: usize = 4096;
/// Texts around the tokens of a tile.
const AROUND: &str = "<fake_token_around_image>";
const GLOBAL: &str = "<global-img>";

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

/// The image settings, and the tokens that stand for tiles.
#[derive(Clone, Debug)]
pub struct Tiles {
    /// How images are cut.
    pub cuts: Cuts,
    /// What bytes become.
    values: Box<[[f32; 256]; 3]>,
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

impl Cuts {
    /// Most tiles along a side.
    fn most(&self) -> usize {
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
        let mut tiles = images::find(files, &PROCESSOR, |fields| {
            Self::from_fields(fields, vision)
        })?;
        if let Some(encode) = encode {
            tiles.tokens = Tokens::new(encode, tiles.cuts.most())?;
        }
        Ok(tiles)
    }

    fn from_fields(fields: &Map<String, Value>, vision: &Vision) -> Result<Self, String> {
        KNOWN.check("", fields)?;
        let file: File = serde_json::from_value(Value::Object(fields.clone()))
            .map_err(|error| error.to_string())?;
        for (name, on) in [
            ("do_resize", file.do_resize),
            ("do_rescale", file.do_rescale),
            ("do_normalize", file.do_normalize),
        ] {
            if on == Some(false) {
                return Err(format!("`{name}` is false, which is not supported"));
            }
        }
        if let Some(filter) = file.resample.filter(|&filter| filter != LANCZOS) {
            return Err(format!(
                "`resample` is {filter}, and only {LANCZOS} (Lanczos) is supported"
            ));
        }
        let tile = file.max_image_size.map_or(364, |edge| edge.longest_edge);
        if tile != vision.tile {
            return Err(format!(
                "`max_image_size.longest_edge` is {tile}, and the model's tiles have {} pixels",
                vision.tile
            ));
        }
        let longest_edge = file.size.map_or(4 * 364, |edge| edge.longest_edge);
        if !(1..=MOST_EDGE).contains(&longest_edge) {
            return Err(format!(
                "`size.longest_edge` is {longest_edge}, and must be from 1 to {MOST_EDGE}"
            ));
        }
        let std = file.image_std.unwrap_or([0.5; 3]);
        if std.contains(&0.0) {
            return Err("`image_std` has a zero".into());
        }
        let rescale = file.rescale_factor.unwrap_or(1.0 / 255.0);
        let mean = file.image_mean.unwrap_or([0.5; 3]);
        Ok(Self {
            cuts: Cuts {
                longest_edge,
                tile,
                splitting: file.do_image_splitting.unwrap_or(true),
            },
            values: Box::new(images::normalised(rescale, mean, std)),
            vision: vision.clone(),
            tokens: Tokens::default(),
        })
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
    fn cut(&self, picture: &RgbImage, values: &mut Vec<f32>) {
        let Vision { patch, shuffle, .. } = self.vision;
        let (side, line) = (self.vision.side(), picture.width as usize * 3);
        for (row, column) in block_order(side, side, shuffle) {
            for (channel, table) in self.values.iter().enumerate() {
                for y in row * patch..(row + 1) * patch {
                    let pixels = &picture.pixels[y * line + column * patch * 3..];
                    let bytes = pixels.chunks_exact(3).take(patch);
                    values.extend(bytes.map(|pixel| table[usize::from(pixel[channel])]));
                }
            }
        }
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
        let mut values = Vec::new();
        for picture in self.pictures(image)? {
            self.cut(&picture, &mut values);
        }
        Ok(Patches { values, grid })
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

//! From a resized image to the patches that the vision tower reads.

use std::path::Path;

use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::RgbImage;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::resize::{Resampling, SmartResize, resize, smart_resize};
use crate::fields::{Known, Only, short};
use crate::qwen2_5_vl::config::VisionConfig;

/// An image, cut up.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// `[t * h * w, channels * frames * patch * patch]`, row by row. The rows go from one block of
    /// `merge x merge` patches to the next, line by line, and line by line within a block; the columns are
    /// channel, frame (equal copies of the image), y, x.
    pub values: Vec<f32>,
    /// Patches in time (1), height and width.
    pub grid: [usize; 3],
}

/// How images are prepared: `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSettings {
    /// Images are enlarged to this area at least, in pixels.
    pub min_pixels: usize,
    /// Images are reduced to this area at most, in pixels.
    pub max_pixels: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Equal copies of the image in a patch.
    pub temporal_patch_size: usize,
    /// Side of the square of patches that becomes one token.
    pub merge_size: usize,
    /// Bytes are multiplied by it.
    pub rescale_factor: f64,
    /// Subtracted after that, for each channel.
    pub mean: [f64; 3],
    /// Divided by after that, for each channel.
    pub std: [f64; 3],
    /// The filter and the arithmetic.
    pub resampling: Resampling,
    /// The rule for the new size.
    pub rule: SmartResize,
}

/// The parts of the file that matter here; what it leaves out has transformers' default.
#[derive(Deserialize)]
struct File {
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    size: Option<Size>,
    patch_size: Option<usize>,
    temporal_patch_size: Option<usize>,
    merge_size: Option<usize>,
    rescale_factor: Option<f64>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
    resample: Option<u32>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
}

#[derive(Deserialize)]
struct Size {
    shortest_edge: Option<usize>,
    longest_edge: Option<usize>,
}

/// Largest area of an image; above it no published model has positions for the tokens.
const MOST_PIXELS: usize = 1 << 27;

/// Steps and types whose arithmetic is the one here. Those for videos have no effect on images.
const KNOWN: Known = Known {
    read: &[
        "do_normalize",
        "do_rescale",
        "do_resize",
        "image_mean",
        "image_std",
        "max_pixels",
        "merge_size",
        "min_pixels",
        "patch_size",
        "resample",
        "rescale_factor",
        "size",
        "temporal_patch_size",
    ],
    idle: &[&[
        "_processor_class",
        "default_to_square",
        "device",
        "disable_grouping",
        "do_sample_frames",
        "feature_extractor_type",
        "fps",
        "input_data_format",
        "max_frames",
        "min_frames",
        "num_frames",
        "processor_class",
        "return_metadata",
        "return_tensors",
        "video_metadata",
        "video_processor_type",
    ]],
    only: &[&[
        ("crop_size", Only::Off),
        ("data_format", Only::Text(&["channels_first"])),
        ("do_center_crop", Only::Off),
        ("do_convert_rgb", Only::True),
        ("do_pad", Only::Off),
        (
            "image_processor_type",
            Only::Text(&[
                "Qwen2VLImageProcessor",
                "Qwen2VLImageProcessorFast",
                "Qwen2VLImageProcessorPil",
                "Qwen2_5_VLImageProcessor",
            ]),
        ),
        ("pad_size", Only::Off),
    ]],
    off_is_default: false,
};

/// `processor_config.json` as a whole.
const PROCESSOR: Known = Known {
    read: &["image_processor"],
    idle: &[&["processor_class", "video_processor"]],
    only: &[],
    off_is_default: false,
};

fn fail(path: &Path, problem: impl std::fmt::Display) -> VlmError {
    VlmError::Config(format!("{}: {problem}", path.display()))
}

fn object(path: &Path, text: &str) -> Result<Map<String, Value>, VlmError> {
    serde_json::from_str(text).map_err(|error| fail(path, format!("no JSON object: {error}")))
}

/// `size` holds both edges, and nothing else, as Transformers asks.
fn check_size(size: &Value) -> Result<(), String> {
    let edges = ["shortest_edge", "longest_edge"];
    let fits = match size {
        Value::Null => true,
        Value::Object(fields) => {
            fields.len() == edges.len() && edges.iter().all(|edge| fields.contains_key(*edge))
        }
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(format!(
            "`size` is {}, and it has to be {{\"shortest_edge\": LEAST, \"longest_edge\": MOST}}, areas in pixels; \
             `min_pixels` and `max_pixels` stand beside it, not in it",
            short(size)
        )),
    }
}

/// PIL's number of the bicubic filter.
const BICUBIC: u32 = 3;

impl ImageSettings {
    /// The settings that `text`, a `preprocessor_config.json`, holds; `path` names it in errors.
    ///
    /// # Errors
    /// [`VlmError::Config`]: no JSON, a field of the wrong kind or of no effect here, a step switched off, another
    /// filter, limits that no image can meet, or patches that are not those of the model's `vision_config`.
    pub fn from_json(path: &Path, text: &str, vision: &VisionConfig) -> Result<Self, VlmError> {
        let fields = object(path, text)?;
        Self::from_fields(&fields, vision).map_err(|problem| fail(path, problem))
    }

    /// The settings below `image_processor` of `text`, a `processor_config.json`; none where it has no such group.
    ///
    /// # Errors
    /// As [`ImageSettings::from_json`].
    pub fn from_processor(
        path: &Path,
        text: &str,
        vision: &VisionConfig,
    ) -> Result<Option<Self>, VlmError> {
        let fields = object(path, text)?;
        PROCESSOR
            .check("", &fields)
            .map_err(|problem| fail(path, problem))?;
        match fields.get("image_processor") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => Self::from_fields(fields, vision)
                .map(Some)
                .map_err(|problem| fail(path, format!("image_processor: {problem}"))),
            Some(other) => {
                let problem = format!("`image_processor` must be an object, not {}", short(other));
                Err(fail(path, problem))
            }
        }
    }

    fn from_fields(fields: &Map<String, Value>, vision: &VisionConfig) -> Result<Self, String> {
        KNOWN.check("", fields)?;
        if let Some(size) = fields.get("size") {
            check_size(size)?;
        }
        let file: File = serde_json::from_value(Value::Object(fields.clone()))
            .map_err(|error| error.to_string())?;
        let settings = file.settings()?;
        settings.check(vision)?;
        Ok(settings)
    }

    fn check(&self, vision: &VisionConfig) -> Result<(), String> {
        self.check_area()?;
        for (name, here, model) in [
            ("patch_size", self.patch_size, vision.patch_size),
            (
                "temporal_patch_size",
                self.temporal_patch_size,
                vision.temporal_patch_size,
            ),
            ("merge_size", self.merge_size, vision.spatial_merge_size),
        ] {
            if here != model {
                return Err(format!("`{name}` is {here}, and the model's {model}"));
            }
        }
        if self.std.contains(&0.0) {
            return Err("`image_std` has a zero".into());
        }
        Ok(())
    }

    fn check_area(&self) -> Result<(), String> {
        for (name, pixels) in [
            ("min_pixels", self.min_pixels),
            ("max_pixels", self.max_pixels),
        ] {
            if pixels > MOST_PIXELS {
                return Err(format!(
                    "`{name}` is {pixels}, and {MOST_PIXELS} is the most that can be worked with"
                ));
            }
        }
        if self.min_pixels > self.max_pixels {
            return Err(format!(
                "`min_pixels` is {}, above `max_pixels`, {}",
                self.min_pixels, self.max_pixels
            ));
        }
        if self.max_pixels < self.factor() * self.factor() {
            return Err(format!(
                "`max_pixels` is {}, and one token takes {} x {0} pixels",
                self.max_pixels,
                self.factor()
            ));
        }
        Ok(())
    }

    /// Other limits of an image's area, where they are given.
    ///
    /// # Errors
    /// [`VlmError::Config`] where the least is above the most, or the most below one token.
    pub fn with_pixels(self, min: Option<usize>, max: Option<usize>) -> Result<Self, VlmError> {
        let settings = Self {
            min_pixels: min.unwrap_or(self.min_pixels),
            max_pixels: max.unwrap_or(self.max_pixels),
            ..self
        };
        settings.check_area().map_err(VlmError::Config)?;
        Ok(settings)
    }

    /// Side of the square of pixels that becomes one token.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// The patches (time, height, width) that an image of this size becomes.
    ///
    /// # Errors
    /// As [`smart_resize`].
    pub fn grid(&self, height: usize, width: usize) -> Result<[usize; 3], VlmError> {
        let (height, width) = smart_resize(
            height,
            width,
            self.factor(),
            self.min_pixels,
            self.max_pixels,
            self.rule,
        )?;
        Ok([1, height / self.patch_size, width / self.patch_size])
    }

    /// The size (width, height) in which the model sees an image of this size.
    ///
    /// # Errors
    /// As [`smart_resize`].
    pub fn seen(&self, width: u32, height: u32) -> Result<(u32, u32), VlmError> {
        let [_, rows, columns] = self.grid(height as usize, width as usize)?;
        let side = |patches: usize| u32::try_from(patches * self.patch_size).unwrap_or(u32::MAX);
        Ok((side(columns), side(rows)))
    }

    /// The language model's tokens that a grid takes.
    pub fn tokens(&self, grid: [usize; 3]) -> usize {
        grid.iter().product::<usize>() / (self.merge_size * self.merge_size)
    }

    /// The image in the size that the model sees it in.
    ///
    /// # Errors
    /// As [`ImageSettings::patches`].
    pub fn resized(&self, image: &RgbImage) -> Result<RgbImage, VlmError> {
        let [_, rows, columns] = self.grid(image.height as usize, image.width as usize)?;
        let (height, width) = (rows * self.patch_size, columns * self.patch_size);
        resize(image, height, width, self.resampling)
    }

    /// The image's patches: resized, normalised and cut up.
    ///
    /// # Errors
    /// As [`smart_resize`]; [`VlmError::Config`] too where the image's sizes and pixels do not fit together.
    pub fn patches(&self, image: &RgbImage) -> Result<Patches, VlmError> {
        let grid = self.grid(image.height as usize, image.width as usize)?;
        let [_, rows, columns] = grid;
        Ok(Patches {
            values: self.cut(&self.resized(image)?, rows, columns),
            grid,
        })
    }

    fn cut(&self, image: &RgbImage, rows: usize, columns: usize) -> Vec<f32> {
        let table = self.normalised();
        let (patch, merge) = (self.patch_size, self.merge_size);
        let line = image.width as usize * 3;
        let mut values = Vec::with_capacity(image.pixels.len() * self.temporal_patch_size);
        for (row, column) in block_order(rows, columns, merge) {
            for (channel, table) in table.iter().enumerate() {
                let start = values.len();
                for y in row * patch..(row + 1) * patch {
                    let pixels = &image.pixels[y * line + column * patch * 3..];
                    let bytes = pixels.chunks_exact(3).take(patch);
                    values.extend(bytes.map(|pixel| table[usize::from(pixel[channel])]));
                }
                let end = values.len();
                for _ in 1..self.temporal_patch_size {
                    values.extend_from_within(start..end);
                }
            }
        }
        values
    }

    /// What each byte of each channel becomes, in the arithmetic of transformers' slow (Pillow) and fast
    /// (torchvision) image processor.
    fn normalised(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            std::array::from_fn(|byte| match self.resampling {
                Resampling::Pillow => ((byte as f64 * self.rescale_factor) as f32 - mean) / std,
                Resampling::Torchvision => {
                    let scale = (1.0 / self.rescale_factor) as f32;
                    (byte as f32 - mean * scale) / (std * scale)
                }
            })
        })
    }
}

/// Row and column of each patch, in the order of [`Patches::values`].
fn block_order(rows: usize, columns: usize, merge: usize) -> impl Iterator<Item = (usize, usize)> {
    let blocks = (0..rows / merge).flat_map(move |y| (0..columns / merge).map(move |x| (y, x)));
    blocks.flat_map(move |(y, x)| {
        (0..merge).flat_map(move |dy| (0..merge).map(move |dx| (y * merge + dy, x * merge + dx)))
    })
}

impl File {
    fn settings(self) -> Result<ImageSettings, String> {
        for (name, on) in [
            ("do_resize", self.do_resize),
            ("do_rescale", self.do_rescale),
            ("do_normalize", self.do_normalize),
        ] {
            if on == Some(false) {
                return Err(format!("`{name}` is false, which is not supported"));
            }
        }
        if let Some(filter) = self.resample.filter(|&filter| filter != BICUBIC) {
            return Err(format!(
                "`resample` is {filter}, and only {BICUBIC} (bicubic) is supported"
            ));
        }
        let size = self.size.unwrap_or(Size {
            shortest_edge: None,
            longest_edge: None,
        });
        let positive = |name: &str, value: Option<usize>, default: usize| match value {
            Some(0) => Err(format!("`{name}` is 0")),
            value => Ok(value.unwrap_or(default)),
        };
        Ok(ImageSettings {
            min_pixels: self.min_pixels.or(size.shortest_edge).unwrap_or(56 * 56),
            max_pixels: self
                .max_pixels
                .or(size.longest_edge)
                .unwrap_or(28 * 28 * 1280),
            patch_size: positive("patch_size", self.patch_size, 14)?,
            temporal_patch_size: positive("temporal_patch_size", self.temporal_patch_size, 2)?,
            merge_size: positive("merge_size", self.merge_size, 2)?,
            rescale_factor: self.rescale_factor.unwrap_or(1.0 / 255.0),
            mean: self
                .image_mean
                .unwrap_or([0.481_454_66, 0.457_827_5, 0.408_210_73]),
            std: self
                .image_std
                .unwrap_or([0.268_629_54, 0.261_302_58, 0.275_777_11]),
            resampling: Resampling::default(),
            rule: SmartResize::default(),
        })
    }
}

//! From a resized image to the patches that the vision tower reads.

use std::path::Path;
use std::sync::Arc;

use dcsft_tensor::ops::Levels;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::RgbImage;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::files::Files;
use super::images::{self, Grid, Images, Patches, Positions};
use super::positions;
use super::resize::{Filter, Resampling, SmartResize, resize, smart_resize};
use crate::fields::{Known, Only, short};
use crate::tower::ImageCost;

/// How images are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchSizes {
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Equal copies of the image in a patch.
    pub temporal: usize,
    /// Side of the square of patches that becomes one token.
    pub merge: usize,
}

impl PatchSizes {
    /// What an image of `pixels` pixels becomes under these limits of an image's area.
    pub(crate) fn cost(&self, pixels: f64, [least, most]: [f64; 2]) -> ImageCost {
        let patches = pixels.clamp(least, most) / self.patch.pow(2) as f64;
        ImageCost {
            patches,
            together: patches,
            tokens: patches / self.merge.pow(2) as f64,
        }
    }
}

/// How the Qwen families prepare images: `preprocessor_config.json`.
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
    /// The token that stands for an image's features.
    pub image_token: u32,
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
    read: &[&[
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
    ]],
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
    ..Known::NOTHING
};

/// `processor_config.json` as a whole.
const PROCESSOR: Known = Known {
    read: &[&["image_processor"]],
    idle: &[&["processor_class", "video_processor"]],
    ..Known::NOTHING
};

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
    /// The settings in a processor's files.
    ///
    /// # Errors
    /// As [`ImageSettings::from_json`].
    pub fn find(files: &Files, sizes: &PatchSizes, image_token: u32) -> Result<Self, VlmError> {
        images::find(files, &PROCESSOR, |fields| {
            Self::from_fields(fields, sizes, image_token)
        })
    }

    /// The settings that `text`, a `preprocessor_config.json`, holds; `path` names it in errors.
    ///
    /// # Errors
    /// [`VlmError::Config`]: no JSON, a field of the wrong kind or of no effect here, a step switched off, another
    /// filter, limits that no image can meet, or patches that are not those of the model's `vision_config`.
    pub fn from_json(path: &Path, text: &str, sizes: &PatchSizes) -> Result<Self, VlmError> {
        let fields = images::object(path, text)?;
        Self::from_fields(&fields, sizes, 0).map_err(|problem| images::fail(path, problem))
    }

    fn from_fields(
        fields: &Map<String, Value>,
        sizes: &PatchSizes,
        image_token: u32,
    ) -> Result<Self, String> {
        KNOWN.check("", fields)?;
        if let Some(size) = fields.get("size") {
            check_size(size)?;
        }
        let file: File = serde_json::from_value(Value::Object(fields.clone()))
            .map_err(|error| error.to_string())?;
        let settings = Self {
            image_token,
            ..file.settings()?
        };
        settings.check(sizes)?;
        Ok(settings)
    }

    fn check(&self, sizes: &PatchSizes) -> Result<(), String> {
        self.check_area()?;
        for (name, here, model) in [
            ("patch_size", self.patch_size, sizes.patch),
            (
                "temporal_patch_size",
                self.temporal_patch_size,
                sizes.temporal,
            ),
            ("merge_size", self.merge_size, sizes.merge),
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

    /// Side of the square of pixels that becomes one token.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// The image in the size that the model sees it in.
    ///
    /// # Errors
    /// As [`smart_resize`]; [`VlmError::Config`] too where the image's sizes and pixels do not fit together.
    pub fn resized(&self, image: &RgbImage) -> Result<RgbImage, VlmError> {
        let [_, rows, columns] = self.grid(image.height as usize, image.width as usize)?;
        let (height, width) = (rows * self.patch_size, columns * self.patch_size);
        resize(image, height, width, Filter::Bicubic, self.resampling)
    }

    /// What each byte of each channel becomes, in the arithmetic of transformers' slow (Pillow) and fast
    /// (torchvision) image processor.
    fn normalised(&self) -> Levels {
        if self.resampling == Resampling::Pillow {
            return images::normalised(self.rescale_factor, self.mean, self.std);
        }
        let scale = (1.0 / self.rescale_factor) as f32;
        std::array::from_fn(|channel| {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            std::array::from_fn(|byte| (byte as f32 - mean * scale) / (std * scale))
        })
    }
}

impl Images for ImageSettings {
    fn grid(&self, height: usize, width: usize) -> Result<Grid, VlmError> {
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

    fn expansion(&self, grid: Grid) -> Vec<u32> {
        let tokens = grid.iter().product::<usize>() / self.merge_size.pow(2);
        vec![self.image_token; tokens]
    }

    fn positions(&self, ids: &[u32], grids: &[Grid]) -> Result<Positions, VlmError> {
        positions::mrope(ids, self.image_token, grids, self.merge_size)
    }

    fn patches(&self, image: &RgbImage) -> Result<Patches, VlmError> {
        let grid = self.grid(image.height as usize, image.width as usize)?;
        let [_, rows, columns] = grid;
        let resized = self.resized(image)?;
        let mut bytes = Vec::with_capacity(resized.pixels.len());
        let order = images::block_order(rows, columns, self.merge_size);
        images::cut(&resized, self.patch_size, order, &mut bytes);
        Ok(Patches {
            bytes,
            levels: Arc::new(self.normalised()),
            grid,
        })
    }

    fn shrunk(&self, image: &RgbImage) -> Result<RgbImage, VlmError> {
        self.resized(image)
    }

    fn seen(&self, width: u32, height: u32) -> Result<(u32, u32), VlmError> {
        let [_, rows, columns] = self.grid(height as usize, width as usize)?;
        let side = |patches: usize| u32::try_from(patches * self.patch_size).unwrap_or(u32::MAX);
        Ok((side(columns), side(rows)))
    }

    fn limits(&self) -> [usize; 2] {
        [self.min_pixels, self.max_pixels]
    }

    fn with_pixels(
        &self,
        min: Option<usize>,
        max: Option<usize>,
    ) -> Result<Arc<dyn Images>, VlmError> {
        let settings = Self {
            min_pixels: min.unwrap_or(self.min_pixels),
            max_pixels: max.unwrap_or(self.max_pixels),
            ..self.clone()
        };
        settings.check_area().map_err(VlmError::Config)?;
        Ok(Arc::new(settings))
    }
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
            image_token: 0,
        })
    }
}

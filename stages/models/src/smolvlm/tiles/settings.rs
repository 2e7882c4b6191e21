//! `preprocessor_config.json`.

use dcsft_tensor::ops::Levels;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::cuts::{Cuts, MOST_EDGE};
use crate::fields::{Known, Only};
use crate::processor::images;

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
pub(super) const PROCESSOR: Known = Known {
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

/// How images are cut, and what their bytes become; the model's own tiles have `own` pixels a side.
///
/// # Errors
/// Names a step that is switched off, another filter, or tiles that are not those of the model.
pub(super) fn read(fields: &Map<String, Value>, own: usize) -> Result<(Cuts, Levels), String> {
    KNOWN.check("", fields)?;
    let file: File =
        serde_json::from_value(Value::Object(fields.clone())).map_err(|error| error.to_string())?;
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
    if tile != own {
        return Err(format!(
            "`max_image_size.longest_edge` is {tile}, and the model's tiles have {own} pixels"
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
    let cuts = Cuts {
        longest_edge,
        tile,
        splitting: file.do_image_splitting.unwrap_or(true),
    };
    Ok((cuts, images::normalised(rescale, mean, std)))
}

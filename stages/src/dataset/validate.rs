//! From a record to a sample, with its image read and decoded once.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::drops::{DropReason, Dropped};
use super::layout::RawRecord;
use super::names::{ImageRef, Roots};
use super::params::{DatasetParams, Images};
use crate::data::{
    Boxes, Context, DataError, Draft, DraftImage, Exif, IMAGE_PLACEHOLDER, decode, sniff,
};

/// Bytes of an image file.
const LARGEST_FILE: u64 = 512 << 20;

/// The sample of a record, or why it has none.
pub(super) fn draft(
    params: &DatasetParams,
    record: &RawRecord,
    roots: &Roots,
) -> Result<Draft, Dropped> {
    let prompt = params.prompt_for(&record.prompt);
    if record.answer.trim().is_empty() {
        return Err(Dropped::new(DropReason::EmptyAnswer, "the answer is empty"));
    }
    if record.images.is_empty() && params.images == Images::Required {
        let detail = format!(
            "no image is named in `images`, `image` or the text; the record has the fields {}",
            record.fields
        );
        return Err(Dropped::new(DropReason::NoImage, detail));
    }
    if let Some(hidden) = &record.hidden {
        return Err(hidden.clone());
    }
    check_places(record, &prompt)?;
    let images = record.images.iter();
    let images: Vec<DraftImage> = images
        .map(|reference| image(reference, roots, params.exif))
        .collect::<Result<_, _>>()?;
    let boxes = boxes(params, record, &images)?;
    let mut meta = record.meta.clone();
    let names: Option<Vec<&str>> = record.images.iter().map(ImageRef::name).collect();
    match names.as_deref() {
        Some([name]) => drop(meta.insert("image".into(), (*name).into())),
        Some(names @ [_, _, ..]) => drop(meta.insert("images".into(), names.into())),
        _ => {}
    }
    let context = Context {
        system: record.system.clone(),
        history: record.history.clone(),
        boxes,
        exif: params.exif,
    };
    Ok(Draft::new(prompt, record.answer.clone(), images, meta).within(context))
}

/// There is a place for each image, and an image for each place.
fn check_places(record: &RawRecord, prompt: &str) -> Result<(), Dropped> {
    let earlier = record.history.iter().map(|said| said.content.as_str());
    let texts = earlier.chain([prompt]);
    let places: usize = texts
        .map(|text| text.matches(IMAGE_PLACEHOLDER).count())
        .sum();
    let images = record.images.len();
    if places == images {
        return Ok(());
    }
    let what = match record.history.is_empty() {
        true => "the prompt has",
        false => "the questions have",
    };
    let plural = if images == 1 { "" } else { "s" };
    let detail =
        format!("{what} {places} {IMAGE_PLACEHOLDER} for {images} image{plural}: {prompt:?}");
    Err(Dropped::new(DropReason::Placeholder, detail))
}

/// What the boxes of the record are, if it has any; they have to lie in their frame.
fn boxes(
    params: &DatasetParams,
    record: &RawRecord,
    images: &[DraftImage],
) -> Result<Option<Boxes>, Dropped> {
    let said = params.boxes.unwrap_or_default();
    let boxes = match record.frame {
        Some(frame) => Some(Boxes { frame, ..said }),
        None => params.boxes,
    };
    if let Some(boxes) = &boxes {
        let [image] = images else {
            let detail = format!(
                "boxes stand in one image, and the record has {}",
                images.len()
            );
            return Err(Dropped::new(DropReason::Box, detail));
        };
        let required = record.frame.is_none();
        let checked = boxes.check(&record.answer, (image.width, image.height), required);
        checked.map_err(|problem| Dropped::new(DropReason::Box, problem))?;
    }
    Ok(boxes)
}

fn image(reference: &ImageRef, roots: &Roots, exif: Exif) -> Result<DraftImage, Dropped> {
    let name = reference.describe();
    let bytes: Arc<[u8]> = match reference {
        ImageRef::Inline(_, inline) => inline.bytes()?,
        ImageRef::Named(name) if name.is_empty() => {
            return Err(Dropped::new(
                DropReason::NoImage,
                "the image's name is empty",
            ));
        }
        ImageRef::Named(written) => read(written, &roots.locate(written)?)?.into(),
    };
    let Some(format) = sniff(&bytes) else {
        let detail = format!(
            "{name} is neither JPEG nor PNG nor WebP ({} bytes)",
            bytes.len()
        );
        return Err(Dropped::new(DropReason::UnsupportedImage, detail));
    };
    let decoded = decode(bytes.to_vec(), format, None, exif).map_err(|error| {
        let (reason, problem) = match error {
            DataError::Image(problem) => (DropReason::BrokenImage, problem),
            large @ DataError::TooLarge { .. } => (DropReason::LargeImage, large.to_string()),
            other => (DropReason::BrokenImage, other.to_string()),
        };
        Dropped::new(reason, format!("{name}: {problem}"))
    })?;
    Ok(DraftImage {
        bytes,
        format,
        width: decoded.width,
        height: decoded.height,
    })
}

/// The bytes of a file. What is no regular file (a pipe, a device) is not opened: it may never end.
fn read(name: &str, path: &Path) -> Result<Vec<u8>, Dropped> {
    let dropped =
        |reason, problem: String| Dropped::new(reason, format!("{name:?} {problem}")).at(path);
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => dropped(DropReason::MissingImage, "does not exist".into()),
        _ => dropped(
            DropReason::UnreadableImage,
            format!("cannot be read: {error}"),
        ),
    };
    let found = std::fs::metadata(path).map_err(io)?;
    if !found.is_file() {
        let what = if found.is_dir() {
            "a folder"
        } else {
            "no regular file"
        };
        return Err(dropped(
            DropReason::UnreadableImage,
            format!("cannot be read: it is {what}"),
        ));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    let mut limited = file.take(LARGEST_FILE + 1);
    limited.read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let problem = format!("has more than {LARGEST_FILE} bytes");
        return Err(dropped(DropReason::LargeImage, problem));
    }
    Ok(bytes)
}

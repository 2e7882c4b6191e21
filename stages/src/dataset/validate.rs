//! From a record to a sample, with its image read and decoded once.

use std::path::Path;

use super::drops::{DropReason, Dropped};
use super::layout::{RawRecord, is_remote};
use super::params::DatasetParams;
use crate::data::{DataError, Draft, DraftImage, IMAGE_PLACEHOLDER, decode, sniff};

/// The sample of a record, or why it has none.
pub(super) fn draft(
    params: &DatasetParams,
    record: &RawRecord,
    folder: &Path,
) -> Result<Draft, Dropped> {
    let prompt = params.prompt_for(&record.prompt);
    if record.answer.trim().is_empty() {
        return Err(Dropped::new(DropReason::EmptyAnswer, "the answer is empty"));
    }
    let name = match record.images.as_slice() {
        [] => return Err(Dropped::new(DropReason::NoImage, "no image is named")),
        [name] => name,
        several => {
            let detail = format!("{} images; models take exactly one", several.len());
            return Err(Dropped::new(DropReason::SeveralImages, detail));
        }
    };
    let placeholders = prompt.matches(IMAGE_PLACEHOLDER).count();
    if placeholders != 1 {
        let detail =
            format!("the prompt has {placeholders} {IMAGE_PLACEHOLDER} for 1 image: {prompt:?}");
        return Err(Dropped::new(DropReason::Placeholder, detail));
    }
    let image = image(params, name, folder)?;
    let mut meta = record.meta.clone();
    meta.insert("image".into(), name.as_str().into());
    Ok(Draft::new(prompt, record.answer.clone(), vec![image], meta))
}

fn image(params: &DatasetParams, name: &str, folder: &Path) -> Result<DraftImage, Dropped> {
    if name.is_empty() {
        return Err(Dropped::new(
            DropReason::NoImage,
            "the image's name is empty",
        ));
    }
    if is_remote(name) {
        let short: String = name.chars().take(80).collect();
        return Err(Dropped::new(
            DropReason::RemoteImage,
            format!("{short:?} is not a file; download it first"),
        ));
    }
    let bytes = std::fs::read(params.locate(folder, name)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Dropped::new(DropReason::MissingImage, format!("{name:?} does not exist"))
        }
        _ => Dropped::new(
            DropReason::UnreadableImage,
            format!("{name:?} cannot be read: {error}"),
        ),
    })?;
    let Some(format) = sniff(&bytes) else {
        let detail = format!(
            "{name:?} is neither JPEG nor PNG nor WebP ({} bytes)",
            bytes.len()
        );
        return Err(Dropped::new(DropReason::UnsupportedImage, detail));
    };
    let decoded = decode(bytes.clone(), format, None).map_err(|error| {
        let problem = match error {
            DataError::Image(problem) => problem,
            other => other.to_string(),
        };
        Dropped::new(DropReason::BrokenImage, format!("{name:?}: {problem}"))
    })?;
    Ok(DraftImage {
        bytes: bytes.into(),
        format,
        width: decoded.width,
        height: decoded.height,
    })
}

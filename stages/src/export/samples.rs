//! Sets as ms-swift reads them: `data.jsonl` with `messages` and `images`, the images as files in `images/`. `solution`
//! is the right answer again, which ms-swift's GRPO looks for there. The fields that a record came with stay with it.

use std::io::Cursor;
use std::path::Path;

use serde_json::{Value, json};

use super::ExportError;
use crate::data::{DataError, Dataset, Encoding, ImageEntry, Sample};

const LIST: &str = "data.jsonl";
const IMAGES: &str = "images";

/// Writes the set in `from`; gives the number of its samples. Images that came from files have their bytes, drawn ones
/// become PNG.
pub(super) fn write(from: &Path, to: &Path) -> Result<usize, ExportError> {
    let data = Dataset::open(from)?;
    let folder = to.join(IMAGES);
    std::fs::create_dir_all(&folder).map_err(ExportError::io(&folder))?;
    let mut list = String::new();
    for sample in data.samples() {
        let mut images = Vec::with_capacity(sample.images.len());
        for (index, entry) in sample.images.iter().enumerate() {
            let name = image_name(sample, index, entry.format);
            if let Some(reason) = dcsft_cache::fault_of_name(&name) {
                return Err(ExportError::Table {
                    path: from.to_owned(),
                    problem: format!(
                        "sample {:?}: its ID cannot be a file's name: {reason}",
                        sample.id
                    ),
                });
            }
            let path = folder.join(&name);
            let bytes = file_bytes(&data, entry)?;
            write_new(&path, &bytes)?;
            images.push(format!("{IMAGES}/{name}"));
        }
        list.push_str(&record(sample, &images).to_string());
        list.push('\n');
    }
    let path = to.join(LIST);
    write_new(&path, list.as_bytes())?;
    Ok(data.len())
}

/// Fields that ms-swift and this layout read. A record's own field of such a name gets `record_` before it, so that it
/// is not taken for something else.
const READ: [&str; 16] = [
    "messages",
    "images",
    "image",
    "solution",
    "sample_id",
    "system",
    "history",
    "query",
    "response",
    "problem",
    "objects",
    "tools",
    "videos",
    "audios",
    "rejected_response",
    "label",
];

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let file = std::fs::File::create_new(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, bytes))
        .map_err(ExportError::io(path))
}

fn record(sample: &Sample, images: &[String]) -> Value {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let system = sample.system.as_deref();
    let turns: Vec<Value> = system
        .map(|text| turn("system", text))
        .into_iter()
        .chain(sample.history.iter().map(|said| json!(said)))
        .chain([
            turn("user", &sample.prompt),
            turn("assistant", &sample.answer),
        ])
        .collect();
    let mut record = json!({"messages": turns, "images": images, "solution": sample.answer, "sample_id": sample.id});
    if let Some(fields) = record.as_object_mut() {
        for (name, value) in &sample.meta {
            let name = match READ.contains(&name.as_str()) {
                true => format!("record_{name}"),
                false => name.clone(),
            };
            fields.insert(name, value.clone());
        }
        if let Some(boxes) = &sample.boxes {
            fields.insert("boxes".to_owned(), json!(boxes));
        }
    }
    record
}

/// The sample's content ID, with the image's number where a sample has several.
fn image_name(sample: &Sample, index: usize, format: Encoding) -> String {
    let ending = match format {
        Encoding::Jpeg => "jpg",
        Encoding::Webp => "webp",
        Encoding::Png | Encoding::Rgb8 => "png",
    };
    if sample.images.len() == 1 {
        format!("{}.{ending}", sample.id)
    } else {
        format!("{}-{}.{ending}", sample.id, index + 1)
    }
}

fn file_bytes(data: &Dataset, entry: &ImageEntry) -> Result<Vec<u8>, ExportError> {
    let bytes = data.image_bytes(entry)?;
    if entry.format != Encoding::Rgb8 {
        return Ok(bytes);
    }
    let fail = |problem: String| ExportError::Data(DataError::Image(problem));
    let length = bytes.len();
    let image = image::RgbImage::from_raw(entry.width, entry.height, bytes).ok_or_else(|| {
        fail(format!(
            "{length} bytes do not make {}x{} pixels",
            entry.width, entry.height
        ))
    })?;
    let mut png = Cursor::new(Vec::new());
    image
        .write_to(&mut png, image::ImageFormat::Png)
        .map_err(|error| fail(error.to_string()))?;
    Ok(png.into_inner())
}

//! What several test files share.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::print_stdout,
    reason = "the tables of differences are for people"
)]

pub(crate) mod checkpoint;
pub(crate) mod compare;
pub(crate) mod micro;
pub(crate) mod model;
pub(crate) mod set;
pub(crate) mod training;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_models::processor::{Message, Part, Role};
use dcsft_vlm::model::RgbImage;
use serde_json::Value;

/// The golden set's folder, or none where there is none on this machine.
pub(crate) fn golden() -> Option<PathBuf> {
    let folder = std::env::var_os("DCSFT_GOLDEN")
        .map(PathBuf::from)
        .or_else(|| {
            std::env::var_os("DCSFT_SHARED").map(|shared| Path::new(&shared).join("golden"))
        });
    let Some(folder) = folder else {
        eprintln!("skipped: neither DCSFT_GOLDEN nor DCSFT_SHARED names the golden data");
        return None;
    };
    if !folder.is_dir() {
        eprintln!("skipped: {} does not exist", folder.display());
        return None;
    }
    Some(folder)
}

/// A whole JSON file.
pub(crate) fn read_json(path: &Path) -> Value {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JSON list of numbers.
pub(crate) fn numbers<T: TryFrom<i64>>(value: &Value) -> Vec<T> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"));
    let number = |value: &Value| value.as_i64().and_then(|number| T::try_from(number).ok());
    list.iter()
        .map(|value| number(value).unwrap_or_else(|| panic!("{value} does not fit")))
        .collect()
}

/// A conversation in the golden files' form, and the paths of its images.
pub(crate) fn conversation(messages: &Value) -> (Vec<Message>, Vec<String>) {
    let mut images = Vec::new();
    let mut part = |part: &Value| match part["type"].as_str() {
        Some("image") => {
            images.push(part["image"].as_str().unwrap().to_owned());
            Part::Image
        }
        Some("text") => Part::Text(part["text"].as_str().unwrap().to_owned()),
        _ => panic!("unknown part {part}"),
    };
    let mut list = Vec::new();
    for message in messages.as_array().unwrap() {
        let role = match message["role"].as_str() {
            Some("system") => Role::System,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            _ => panic!("unknown role in {message}"),
        };
        let content = match &message["content"] {
            Value::String(text) => vec![Part::Text(text.clone())],
            parts => parts.as_array().unwrap().iter().map(&mut part).collect(),
        };
        list.push(Message { role, content });
    }
    (list, images)
}

/// A safetensors file in memory.
pub(crate) struct Tensors(Vec<u8>);

impl Tensors {
    pub(crate) fn read(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// Shape and bytes of a tensor, where it is there.
    pub(crate) fn bytes(&self, name: &str) -> Option<(Vec<usize>, Vec<u8>)> {
        let tensors = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(name).ok()?;
        Some((tensor.shape().to_vec(), tensor.data().to_vec()))
    }

    pub(crate) fn f32(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let (shape, bytes) = self.bytes(name)?;
        let values = bytes.as_chunks::<4>().0.iter();
        Some((
            shape,
            values.map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        ))
    }

    pub(crate) fn i64(&self, name: &str) -> Option<(Vec<usize>, Vec<i64>)> {
        let (shape, bytes) = self.bytes(name)?;
        let values = bytes.as_chunks::<8>().0.iter();
        Some((
            shape,
            values.map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        ))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let tensors = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        tensors
            .names()
            .into_iter()
            .map(ToString::to_string)
            .collect()
    }
}

/// An image from its pixels.
pub(crate) fn rgb(width: usize, height: usize, pixels: Vec<u8>) -> RgbImage {
    RgbImage {
        width: width as u32,
        height: height as u32,
        pixels: pixels.into(),
    }
}

/// The set's images by path, as transformers decodes them: the stored pixels, or those of a plain RGB file.
pub(crate) fn images(golden: &Path) -> BTreeMap<String, RgbImage> {
    let tensors = Tensors::read(&golden.join("processor/images.safetensors"));
    let index = read_json(&golden.join("processor/images.json"));
    let mut images = BTreeMap::new();
    for (name, facts) in index["images"].as_object().unwrap() {
        let file = facts["file"].as_str().unwrap();
        let image = match tensors.bytes(&format!("{name}.decoded_rgb_u8")) {
            Some((shape, pixels)) => rgb(shape[1], shape[0], pixels),
            None => {
                assert_eq!(facts["mode"], "RGB", "{name}");
                let read = image::open(golden.join(file)).unwrap().into_rgb8();
                rgb(
                    read.width() as usize,
                    read.height() as usize,
                    read.into_raw(),
                )
            }
        };
        images.insert(file.to_owned(), image);
    }
    images
}

/// The images at `paths`.
pub(crate) fn choose(images: &BTreeMap<String, RgbImage>, paths: &[String]) -> Vec<RgbImage> {
    paths.iter().map(|path| images[path].clone()).collect()
}

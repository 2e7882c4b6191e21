//! A golden set of one family: its model, its cases, and the checks that all families share. Every dimension comes from
//! the set's files.

mod exact;
mod export;
mod forward;
mod generation;
mod grpo;
mod training;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_models::processor::Encode;
use dcsft_models::{HubModel, Sequence};
use dcsft_tensor::device::test_device;
use dcsft_vlm::model::{Prompt, RgbImage};
use serde_json::Value;

use super::compare::largest;
use super::{Tensors, choose, conversation, images, numbers, read_json};

#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use self::{
    exact::{cases, texts},
    export::export,
    forward::forward,
    generation::generation,
    grpo::grpo,
    training::{sft_full, sft_lora},
};

const PEFT_PREFIX: &str = "base_model.model.";

/// Where a family's set is, and what its numbers may differ by (its README).
pub(crate) struct Place {
    /// The variable that names another set of the same layout.
    pub(crate) variable: &'static str,
    /// The folder below `DCSFT_SHARED`.
    pub(crate) folder: &'static str,
    /// Largest difference of a logit.
    pub(crate) logits: f32,
}

/// A golden set with its images.
pub(crate) struct Set {
    pub(crate) dir: PathBuf,
    images: BTreeMap<String, RgbImage>,
    cases: Value,
    logits: f32,
}

impl Place {
    /// The set's folder, or none where there is none on this machine.
    pub(crate) fn find(&self) -> Option<PathBuf> {
        let named = std::env::var_os(self.variable).map(PathBuf::from);
        let shared = || Some(PathBuf::from(std::env::var_os("DCSFT_SHARED")?).join(self.folder));
        let Some(folder) = named.or_else(shared) else {
            eprintln!(
                "skipped: neither {} nor DCSFT_SHARED names the golden data",
                self.variable
            );
            return None;
        };
        if !folder.is_dir() {
            eprintln!("skipped: {} does not exist", folder.display());
            return None;
        }
        Some(folder)
    }

    pub(crate) fn open(&self) -> Option<Set> {
        Some(self.open_at(self.find()?))
    }

    pub(crate) fn open_at(&self, dir: PathBuf) -> Set {
        Set {
            images: images(&dir),
            cases: read_json(&dir.join("forward/cases.json")),
            dir,
            logits: self.logits,
        }
    }
}

pub(crate) fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn load(dir: &Path) -> HubModel {
    HubModel::load(dir, &test_device()).unwrap_or_else(|error| panic!("{error}"))
}

impl Set {
    pub(crate) fn model(&self) -> HubModel {
        load(&self.dir.join("ckpt"))
    }

    pub(crate) fn json(&self, file: &str) -> Value {
        read_json(&self.dir.join(file))
    }

    pub(crate) fn tensors(&self, file: &str) -> Tensors {
        Tensors::read(&self.dir.join(file))
    }

    /// A conversation as the models' interface takes it.
    pub(crate) fn prompt(&self, id: &str, messages: &Value) -> Prompt {
        let (messages, paths) = conversation(messages);
        let images = choose(&self.images, &paths);
        Prompt {
            id: id.into(),
            messages,
            images: images.into_iter().map(Into::into).collect(),
        }
    }

    fn sequence(&self, model: &HubModel, messages: &Value, prompt: bool) -> Sequence {
        let (messages, paths) = conversation(messages);
        let options = Encode {
            generation_prompt: prompt,
            ..Encode::default()
        };
        let encoded = model
            .processor()
            .encode(&messages, &choose(&self.images, &paths), &options)
            .unwrap_or_else(|error| panic!("{error}"));
        Sequence {
            id: "golden".into(),
            encoded: encoded.into(),
            answers: Vec::new(),
        }
    }

    /// The checkpoint for a case: with the processor's options that the case names.
    fn model_for(&self, case: &str) -> HubModel {
        let options = &self.cases[case]["processor_kwargs"];
        let options = options.as_object().filter(|options| !options.is_empty());
        let Some(options) = options else {
            return self.model();
        };
        let dir = tempfile::tempdir().unwrap();
        copy_folder(&self.dir.join("ckpt"), dir.path());
        let path = dir.path().join("preprocessor_config.json");
        let mut settings = read_json(&path);
        for (name, value) in options {
            settings[name] = value.clone();
        }
        std::fs::write(&path, settings.to_string()).unwrap();
        load(dir.path())
    }

    pub(crate) fn case(&self, model: &HubModel, name: &str) -> Vec<Sequence> {
        let messages = self.cases[name]["messages"].as_array().unwrap();
        let sequence = |messages| self.sequence(model, messages, true);
        messages.iter().map(sequence).collect()
    }

    pub(crate) fn case_names(&self) -> Vec<String> {
        let cases = self.cases.as_object().unwrap();
        cases.keys().cloned().collect()
    }

    /// The conversation of a member of a generation.
    fn member(&self, name: &Value) -> Prompt {
        let name = name.as_str().unwrap();
        self.prompt(name, &self.cases[name]["messages"][0])
    }
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &target),
            // Not the permissions: a set may be read-only.
            false => std::fs::write(&target, std::fs::read(&path).unwrap()).unwrap(),
        }
    }
}

/// A padded `[rows, width]` list without its padding.
fn unpadded<T: Copy>(values: &[T], mask: &[i64]) -> Vec<T> {
    assert_eq!(values.len(), mask.len());
    let pairs = values.iter().zip(mask);
    pairs
        .filter(|(_, real)| **real == 1)
        .map(|(value, _)| *value)
        .collect()
}

/// The rows of a padded `[batch, length, width]` tensor where the mask is 1.
fn real_rows(tensors: &Tensors, name: &str) -> Option<Vec<f32>> {
    let (shape, all) = tensors.f32(name)?;
    let (_, mask) = tensors.i64("attention_mask").unwrap();
    let rows = all.chunks_exact(*shape.last().unwrap()).zip(mask);
    Some(
        rows.filter(|(_, real)| *real == 1)
            .flat_map(|(row, _)| row)
            .copied()
            .collect(),
    )
}

/// The largest difference is at most 2e-4 of the largest value.
fn close_gradient(what: &str, left: &[f32], right: &[f32]) -> f32 {
    let size = right.iter().fold(0f32, |size, value| size.max(value.abs()));
    let difference = largest(left, right);
    assert!(
        difference <= 2e-4 * size,
        "{what}: differs by {difference}, and its largest value is {size}"
    );
    difference / size
}

/// Changes a number in the middle of a file's tensor.
pub(crate) fn damage(file: &Path, tensor: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let table: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let range = numbers::<usize>(&table[tensor]["data_offsets"]);
    let place = 8 + header + (range[0] + range[1]) / 8 * 4;
    // A bit of the exponent, or of an integer.
    bytes[place + 3] ^= 1;
    bytes[place] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// A check of a set fails on a copy in which one tensor has another number.
pub(crate) fn notices(place: &Place, file: &str, tensor: &str, check: impl Fn(&Set)) {
    let Some(dir) = place.find() else { return };
    check(&place.open_at(dir.clone()));
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&dir, copy.path());
    damage(&copy.path().join(file), tensor);
    let set = place.open_at(copy.path().to_owned());
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&set)));
    assert!(
        found.is_err(),
        "nobody noticed the damage to {tensor} in {file}"
    );
}

//! A state file as it is read: whole, of this version, and of the run that goes on.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::header::Header;
use crate::train::error::TrainError;

/// Key of the header in the file's metadata; its suffix is the layout's version.
pub(super) const HEADER: &str = "dcsft.trainer.2";

/// Characters of the digest, which the header begins with.
const DIGEST: usize = 2 * blake3::OUT_LEN;

/// Settings that a restored run may change: the rates of the steps already made are compared by themselves.
const LENGTHS: [&str; 8] = [
    "steps",
    "epochs",
    "save_steps",
    "learning_rate",
    "schedule",
    "warmup_steps",
    "warmup_ratio",
    "min_lr_ratio",
];

/// A parsed state file.
pub(super) struct Stored<'a> {
    path: &'a Path,
    pub(super) header: Header,
    pub(super) tensors: SafeTensors<'a>,
}

impl<'a> Stored<'a> {
    pub(super) fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self, TrainError> {
        let damaged = |problem: String| TrainError::State {
            path: path.to_owned(),
            problem,
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|error| damaged(format!("is no trainer state: {error}")))?;
        let (written, header) = metadata
            .metadata()
            .as_ref()
            .and_then(|map| map.get(HEADER)?.split_at_checked(DIGEST))
            .ok_or_else(|| damaged("is no trainer state of this version".to_owned()))?;
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| damaged(format!("is no trainer state: {error}")))?;
        let views = tensors.tensors();
        let parts = views.iter();
        let parts = parts.map(|(name, view)| (name.as_str(), view.shape(), view.data()));
        if written != digest(header, parts) {
            return Err(damaged("is damaged: its digest is another".to_owned()));
        }
        let header = serde_json::from_str(header)
            .map_err(|error| damaged(format!("has a broken header: {error}")))?;
        Ok(Self {
            path,
            header,
            tensors,
        })
    }

    fn error(&self, problem: impl Into<String>) -> TrainError {
        TrainError::State {
            path: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    /// The state belongs to the run that goes on.
    pub(super) fn check(
        &self,
        now: &Header,
        total: usize,
        rates: &dyn Fn(usize) -> f64,
    ) -> Result<(), TrainError> {
        let header = &self.header;
        if header.trainer != now.trainer {
            return Err(self.error(format!(
                "is the state of a {} run, not of {}",
                header.trainer, now.trainer
            )));
        }
        if header.owner != now.owner {
            return Err(self.error("belongs to another run"));
        }
        if header.data != now.data {
            return Err(self.error("was trained on other data"));
        }
        if let Some((field, was, is)) = difference(&header.config, &now.config) {
            return Err(self.error(format!(
                "was trained with `{field}` = {was}, and this run has {is}"
            )));
        }
        if header.log.len() > total {
            return Err(self.error(format!(
                "has made {} steps, and this run has {total}",
                header.log.len()
            )));
        }
        for (step, record) in header.log.iter().enumerate() {
            let (was, is) = (record["learning_rate"].as_f64(), rates(step));
            if was != Some(is) {
                let was = was.map_or("none".to_owned(), |rate| rate.to_string());
                let step = step + 1;
                return Err(self.error(format!(
                    "took step {step} with learning rate {was}, and this run's schedule has {is} there"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn records<R: DeserializeOwned>(&self) -> Result<Vec<R>, TrainError> {
        let record = |value: &Value| {
            R::deserialize(value).map_err(|error| self.error(format!("has a broken log: {error}")))
        };
        self.header.log.iter().map(record).collect()
    }

    pub(super) fn tensor(
        &self,
        kind: &str,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Vec<f32>, TrainError> {
        let view = self
            .tensors
            .tensor(&format!("{kind}.{name}"))
            .map_err(|_| {
                self.error(format!(
                    "has no {kind} of {name}: it is the state of another model"
                ))
            })?;
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(self.error(format!(
                "has {name} as {:?} {:?}, not F32 {shape:?}",
                view.dtype(),
                view.shape()
            )));
        }
        Ok(view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect())
    }
}

/// The first setting that differs, with both values.
fn difference(was: &Value, is: &Value) -> Option<(String, Value, Value)> {
    let (was, is) = (was.as_object()?, is.as_object()?);
    let fields = is
        .keys()
        .chain(was.keys())
        .filter(|field| !LENGTHS.contains(&field.as_str()));
    let value = |map: &serde_json::Map<String, Value>, field: &str| {
        map.get(field).cloned().unwrap_or(Value::Null)
    };
    fields
        .map(|field| (field.clone(), value(was, field), value(is, field)))
        .find(|(_, was, is)| was != is)
}

/// The digest of all that a state holds: its header, and each tensor's name, shape and bytes in the order of the names.
pub(super) fn digest<'a>(
    header: &str,
    tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>,
) -> String {
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by_key(|(name, ..)| *name);
    let mut hasher = blake3::Hasher::new_derive_key("dcsft 2026 trainer state v1");
    let mut framed = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    framed(header.as_bytes());
    for (name, shape, bytes) in tensors {
        framed(name.as_bytes());
        let shape: Vec<u8> = shape
            .iter()
            .flat_map(|&size| (size as u64).to_le_bytes())
            .collect();
        framed(&shape);
        framed(bytes);
    }
    hasher.finalize().to_hex().to_string()
}

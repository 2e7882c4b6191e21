//! What a stopped run needs to go on: trainable weights, optimiser moments, the step and the log, in one file.
//!
//! The file is written beside its place, synced and renamed, so that a reader finds the old state or the new
//! one, never a part. It carries a digest of all that is read from it, and the name of its owner: a bit that has changed
//! on the disk, or the state of another run, is found out before anything is taken. Weights of 16 bits are in the file
//! with the 32 bits that the optimiser keeps of them. Data order and random draws need no state: they are functions of
//! the step.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use dcsft_tensor::host::on_host;
use dcsft_tensor::params::ParamSet;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::train::adamw::{AdamW, Kept, Moments, trainable};
use crate::train::error::TrainError;
use crate::train::floats::floats;
use crate::train::master::{Master, Place};

/// Name of the state's file within its folder.
pub const STATE_FILE: &str = "trainer_state.safetensors";

/// Key of the header in the file's metadata; its suffix is the layout's version.
const HEADER: &str = "dcsft.trainer.2";

/// Characters of the digest, which the header begins with.
const DIGEST: usize = 2 * blake3::OUT_LEN;

/// The tensor of bytes that holds a trainer's notes.
const NOTES: &str = "notes";

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

/// All of the state that is not tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// `sft` or `grpo`.
    pub(crate) trainer: String,
    /// Who may go on from the state.
    pub(crate) owner: String,
    /// The run's settings.
    pub(crate) config: Value,
    /// Digest of the training data.
    pub(crate) data: String,
    /// Updates of the optimiser.
    pub(crate) updates: u64,
    /// One record per step done.
    pub(crate) log: Vec<Value>,
}

impl Header {
    /// Describes a run that has made no step yet.
    pub(crate) fn new(
        trainer: &str,
        config: &impl Serialize,
        data: String,
    ) -> Result<Self, TrainError> {
        let config =
            serde_json::to_value(config).map_err(|error| TrainError::Data(error.to_string()))?;
        Ok(Self {
            trainer: trainer.to_owned(),
            owner: String::new(),
            config,
            data,
            updates: 0,
            log: Vec::new(),
        })
    }

    /// The same run, with a state of `owner`'s.
    pub(crate) fn owned_by(&self, owner: &str) -> Self {
        Self {
            owner: owner.to_owned(),
            ..self.clone()
        }
    }
}

/// What a state holds besides weights and optimiser.
pub(crate) struct Records<R> {
    /// One record per step done.
    pub(crate) log: Vec<R>,
    /// What the trainer has written down beside the log.
    pub(crate) notes: Vec<u8>,
}

/// Writes the state of the run that `header` describes into `dir`: its records so far, the trainable weights of `sets`
/// and the optimiser, and the trainer's `notes`.
pub(crate) fn save<R: Serialize>(
    dir: &Path,
    header: &Header,
    (log, notes): (&[R], &[u8]),
    sets: &[&ParamSet],
    optimizer: &AdamW,
) -> Result<(), TrainError> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let params = sets
        .iter()
        .flat_map(|set| set.iter())
        .filter(|param| param.trainable);
    for (index, param) in params.enumerate() {
        let shape = param.value.dims().to_vec();
        let mut push = |kind: &str, values: Vec<f32>| {
            tensors.push((
                format!("{kind}.{}", param.name),
                shape.clone(),
                to_bytes(&values),
            ));
        };
        let kept = optimizer.kept.get(index);
        let master = kept.map_or(&Master::Own, |kept| &kept.master);
        push(
            "param",
            master.take_values(param.value.clone(), &param.name)?,
        );
        if let Some(kept) = kept {
            let (first, second) = kept.moments.values(&param.name)?;
            push("first", first);
            push("second", second);
        }
    }
    if !notes.is_empty() {
        tensors.push((NOTES.to_owned(), vec![notes.len()], notes.to_vec()));
    }
    let path = dir.join(STATE_FILE);
    let damaged = |problem: String| TrainError::State {
        path: path.clone(),
        problem,
    };
    let record = |record| serde_json::to_value(record).map_err(|error| damaged(error.to_string()));
    let header = Header {
        updates: optimizer.steps(),
        log: log.iter().map(record).collect::<Result<_, _>>()?,
        ..header.clone()
    };
    let header = serde_json::to_string(&header).map_err(|error| damaged(error.to_string()))?;
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let dtype = if name == NOTES { Dtype::U8 } else { Dtype::F32 };
            TensorView::new(dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| damaged(error.to_string()))?;
    let digest = digest(
        &header,
        tensors
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), &shape[..], &bytes[..])),
    );
    // One entry: the order of several would be another in each process.
    let metadata = Some([(HEADER.to_owned(), digest + &header)].into());
    let bytes =
        safetensors::serialize(views, metadata).map_err(|error| damaged(error.to_string()))?;
    publish(dir, &path, &bytes)
}

/// Reads the state in `dir` into the weights and the optimiser; `now` describes the run that goes on, which
/// has `total` steps; `rates` gives its learning rate for each record of the log. Gives log and notes.
///
/// # Errors
/// [`TrainError::State`] and [`TrainError::Io`]; then nothing has changed.
pub(crate) fn restore<R: DeserializeOwned>(
    dir: &Path,
    now: &Header,
    sets: &mut [&mut ParamSet],
    optimizer: &mut AdamW,
    total: usize,
    rates: &dyn Fn(usize) -> f64,
) -> Result<Records<R>, TrainError> {
    let path = dir.join(STATE_FILE);
    let failed = |source| TrainError::Io {
        path: path.clone(),
        source,
    };
    // Looked at before it is opened: a pipe in its place would wait for a writer.
    if !fs::metadata(&path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let bytes = fs::read(&path).map_err(failed)?;
    let state = Stored::parse(&path, &bytes)?;
    state.check(now, total, rates)?;
    let log = state.records()?;
    let notes = state.tensors.tensor(NOTES);
    let notes = notes.map_or(Vec::new(), |view| view.data().to_vec());
    let mut all_kept = Vec::new();
    let mut values = Vec::new();
    for param in trainable(sets) {
        let shape = param.value.dims();
        let mut master = Master::of(&param.value);
        let value = state.tensor("param", &param.name, shape)?;
        values.push(master.set(value, &Place::of(&param.value)));
        if state.header.updates > 0 {
            let first = state.tensor("first", &param.name, shape)?;
            let second = state.tensor("second", &param.name, shape)?;
            let moments = Moments::from_values(&param.value, first, second);
            all_kept.push(Kept { moments, master });
        }
    }
    for (param, value) in trainable(sets).zip(values) {
        param.value = value.autodiff().require_grad();
    }
    optimizer.kept = all_kept;
    optimizer.steps = state.header.updates;
    Ok(Records { log, notes })
}

/// A parsed state file.
struct Stored<'a> {
    path: &'a Path,
    header: Header,
    tensors: SafeTensors<'a>,
}

impl<'a> Stored<'a> {
    fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self, TrainError> {
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
    fn check(
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

    fn records<R: DeserializeOwned>(&self) -> Result<Vec<R>, TrainError> {
        let record = |value: &Value| {
            R::deserialize(value).map_err(|error| self.error(format!("has a broken log: {error}")))
        };
        self.header.log.iter().map(record).collect()
    }

    fn tensor(&self, kind: &str, name: &str, shape: [usize; 2]) -> Result<Vec<f32>, TrainError> {
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

impl Moments {
    fn values(&self, name: &str) -> Result<(Vec<f32>, Vec<f32>), TrainError> {
        match self {
            Self::Host { first, second } => Ok((first.clone(), second.clone())),
            Self::Device(moments) => {
                let read = |tensor: &Tensor<2>| {
                    floats(tensor.clone(), || format!("the moments of {name}"))
                };
                Ok((read(&moments[0])?, read(&moments[1])?))
            }
        }
    }

    fn from_values(value: &Tensor<2>, first: Vec<f32>, second: Vec<f32>) -> Self {
        if on_host(value) {
            return Self::Host { first, second };
        }
        let device = value.device().inner();
        let tensor = |values| Tensor::from_data(TensorData::new(values, value.shape()), &device);
        Self::Device(Box::new([tensor(first), tensor(second)]))
    }
}

/// The digest of all that a state holds: its header, and each tensor's name, shape and bytes in the order of the names.
fn digest<'a>(
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

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn publish(dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let failed = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| TrainError::Io { path, source }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let temporary = dir.join(format!(".{STATE_FILE}.{}", std::process::id()));
    let mut file = File::create(&temporary).map_err(failed(&temporary))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(failed(&temporary))?;
    fs::rename(&temporary, path).map_err(failed(path))?;
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(failed(dir))
}

//! What a stopped run needs to go on: trainable weights, optimiser moments, the step and the log, in one file.
//!
//! The file is written beside its place, synced and renamed, so that a reader finds the old state or the new
//! one, never a part. It carries a digest of all that is read from it, and the name of its owner: a bit that has changed
//! on the disk, or the state of another run, is found out before anything is taken. Weights of 16 bits are in the file
//! with the 32 bits that the optimiser keeps of them. Data order and random draws need no state: they are functions of
//! the step.

mod header;
mod stored;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use dcsft_tensor::host::send;
use dcsft_tensor::params::ParamSet;
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::train::adamw::{AdamW, Kept, Moments, trainable};
use crate::train::error::TrainError;
use crate::train::floats::floats;
use crate::train::home::Home;
use crate::train::master::{Master, Place};

pub(crate) use header::Header;
use stored::{HEADER, Stored, digest};

/// Name of the state's file within its folder.
pub const STATE_FILE: &str = "trainer_state.safetensors";

/// The tensor of bytes that holds a trainer's notes.
const NOTES: &str = "notes";

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
        let home = Home::of(&param.value, optimizer.settings.offload);
        let mut master = Master::of(&param.value, home);
        let value = state.tensor("param", &param.name, shape)?;
        values.push(master.set(value, &Place::of(&param.value)));
        if state.header.updates > 0 {
            let first = state.tensor("first", &param.name, shape)?;
            let second = state.tensor("second", &param.name, shape)?;
            let moments = Moments::from_values(&param.value, home, first, second);
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

    fn from_values(value: &Tensor<2>, home: Home, first: Vec<f32>, second: Vec<f32>) -> Self {
        if home == Home::Process {
            return Self::Host { first, second };
        }
        let device = value.device().inner();
        let tensor = |values| send(TensorData::new(values, value.shape()), &device);
        Self::Device(Box::new([tensor(first), tensor(second)]))
    }
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

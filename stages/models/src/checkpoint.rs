//! A checkpoint's weights: one safetensors file or several shards with an index, mapped into memory and read tensor
//! by tensor.

mod numbers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dcsft_vlm::error::VlmError;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::folder::{self, INDEX_BYTES, fault, io};
use crate::names::Names;

pub(crate) use numbers::transposed;
use numbers::{first_not_finite, floats};

/// The file of a checkpoint that is in one piece.
pub const SINGLE: &str = "model.safetensors";
/// Says which shard holds which tensor.
pub const INDEX: &str = "model.safetensors.index.json";

/// How a tensor lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As it is in memory: `[rows, columns]`.
    Plain,
    /// A linear layer's weight: in memory `[in, out]`, in the file `[out, in]`, `in` perhaps in several dimensions.
    Linear,
    /// A vector: in memory `[1, n]`, in the file `[n]`.
    Vector,
}

/// The tensors of a checkpoint, by the names that Transformers gives its modules; [`Checkpoint::take`] each, then
/// [`Checkpoint::finish`].
pub struct Checkpoint {
    dir: PathBuf,
    names: Names,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
}

struct Shard {
    path: PathBuf,
    bytes: Mmap,
}

struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Place in the shard's bytes.
    place: std::ops::Range<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The names of the files in `dir` that hold the weights: one file, or else the index with the shards that it names, as
/// Transformers chooses.
///
/// # Errors
/// [`VlmError`]: neither is there, or the index is none or names a file that is not in the folder.
pub(crate) fn weight_files(dir: &Path) -> Result<BTreeSet<String>, VlmError> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if folder::is_there(&single) {
        return Ok([SINGLE.to_owned()].into());
    }
    if !folder::is_there(&index) {
        return Err(fault(dir, no_weights(dir)));
    }
    let names = read_index(&index)?.into_values().chain([INDEX.to_owned()]);
    Ok(names.collect())
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>, VlmError> {
    let bytes = folder::read(path, INDEX_BYTES)?;
    let Index { weight_map } =
        serde_json::from_slice(&bytes).map_err(|error| fault(path, error.to_string()))?;
    let names: BTreeSet<&String> = weight_map.values().collect();
    for name in names {
        folder::check_name(path, name)?;
        if !name.ends_with(".safetensors") {
            let problem = format!("it names the file {name:?}, and only safetensors can be read");
            return Err(fault(path, problem));
        }
    }
    Ok(weight_map)
}

/// What to say of a folder without weights; files that other programs keep weights in are named.
fn no_weights(dir: &Path) -> String {
    const OTHERS: [&str; 8] = [
        ".bin", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".pt", ".pth",
    ];
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut others: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let stray = name.ends_with(".safetensors") && !name.starts_with("adapter_");
            stray || OTHERS.iter().any(|ending| name.ends_with(ending))
        })
        .collect();
    others.sort();
    others.truncate(3);
    let found = match others.is_empty() {
        true => String::new(),
        false => format!(
            "; {} cannot be read: convert it, for example by loading the model with Transformers and calling \
             `save_pretrained(..., safe_serialization=True)`",
            others.join(", ")
        ),
    };
    format!("it holds no weights: neither {SINGLE} nor {INDEX} with shards{found}")
}

impl Checkpoint {
    /// Opens the files of a folder; no tensor is read yet.
    ///
    /// # Errors
    /// [`VlmError::Io`] or [`VlmError::Weights`] with the file: missing, cut off, not safetensors, or an index that
    /// does not fit its shards or leads out of the folder.
    pub fn open(dir: &Path, names: Names) -> Result<Self, VlmError> {
        let files = weight_files(dir)?;
        if !files.contains(INDEX) {
            return Self::of_files(dir, vec![dir.join(SINGLE)], names);
        }
        let index = dir.join(INDEX);
        let shards = files.iter().filter(|name| *name != INDEX);
        let opened = Self::of_files(dir, shards.map(|name| dir.join(name)).collect(), names)?;
        let weight_map = read_index(&index)?;
        let lost = weight_map
            .keys()
            .find(|name| !opened.tensors.contains_key(&names.module_of(name)));
        match lost {
            None => Ok(opened),
            Some(name) => Err(fault(
                &index,
                format!("it lists the tensor {name}, and no shard has it"),
            )),
        }
    }

    /// Opens named files, as a PEFT adapter's one file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn of_files(dir: &Path, paths: Vec<PathBuf>, names: Names) -> Result<Self, VlmError> {
        let mut opened = Self {
            dir: dir.to_owned(),
            names,
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for path in paths {
            opened.add(path)?;
        }
        Ok(opened)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), VlmError> {
        let file = folder::open(&path)?;
        // SAFETY: the file is only read. Another process that shortens it meanwhile can end this one with SIGBUS,
        // as with any mapped file; a damaged header or length is found below.
        let bytes = unsafe { Mmap::map(&file) }.map_err(io(&path))?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| fault(&path, format!("it is no whole safetensors file: {error}")))?;
        let start = header + 8;
        for (name, info) in metadata.tensors() {
            let place = start + info.data_offsets.0..start + info.data_offsets.1;
            if place.end > bytes.len() {
                let problem = format!("it is cut off within the tensor {name}");
                return Err(fault(&path, problem));
            }
            let entry = Entry {
                shard: self.shards.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                place,
            };
            if self
                .tensors
                .insert(self.names.module_of(&name), entry)
                .is_some()
            {
                return Err(fault(&path, format!("the tensor {name} is there twice")));
            }
        }
        self.shards.push(Shard { path, bytes });
        Ok(())
    }

    /// The folder, or the one file.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many tensors are left.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether no tensor is left.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The shape of a tensor as the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| &entry.shape[..])
    }

    /// The file that a tensor is in.
    pub fn file(&self, name: &str) -> Option<&Path> {
        let entry = self.tensors.get(name)?;
        Some(&self.shards[entry.shard].path)
    }

    /// Whether two tensors hold the same numbers in the same shape.
    pub fn are_equal(&self, a: &str, b: &str) -> bool {
        let (Some(a), Some(b)) = (self.tensors.get(a), self.tensors.get(b)) else {
            return false;
        };
        let bytes = |entry: &Entry| &self.shards[entry.shard].bytes[entry.place.clone()];
        a.shape == b.shape
            && match a.dtype == b.dtype {
                true => bytes(a) == bytes(b),
                false => floats(bytes(a), a.dtype) == floats(bytes(b), b.dtype),
            }
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Names of the tensors that are left, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Leaves a tensor out.
    pub fn skip(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// Reads a tensor as 32-bit floats in its in-memory shape `shape`.
    ///
    /// # Errors
    /// [`VlmError::Weights`] if it is missing, has another shape, or no float type.
    pub fn take(
        &mut self,
        name: &str,
        shape: [usize; 2],
        layout: Layout,
    ) -> Result<Vec<f32>, VlmError> {
        let entry = self.remove(name, shape, layout)?;
        let bytes = &self.shards[entry.shard].bytes[entry.place];
        let values = floats(bytes, entry.dtype);
        Ok(match layout {
            Layout::Linear => transposed(&values, shape[0]),
            Layout::Plain | Layout::Vector => values,
        })
    }

    /// As [`Checkpoint::take`], with a look at every number in the place of reading them.
    ///
    /// # Errors
    /// As [`Checkpoint::take`]; [`VlmError::Weights`] too for a number that is none, or infinite.
    pub fn check(&mut self, name: &str, shape: [usize; 2], layout: Layout) -> Result<(), VlmError> {
        let entry = self.remove(name, shape, layout)?;
        let shard = &self.shards[entry.shard];
        match first_not_finite(&shard.bytes[entry.place], entry.dtype) {
            None => Ok(()),
            Some((index, value)) => {
                let name = self.names.published(name);
                let problem = format!(
                    "the tensor {name} has {value} at place {index}: with such weights every answer is meaningless"
                );
                Err(fault(&shard.path, problem))
            }
        }
    }

    fn remove(&mut self, name: &str, shape: [usize; 2], layout: Layout) -> Result<Entry, VlmError> {
        let Some(entry) = self.tensors.remove(name) else {
            let problem = format!("the tensor {} is missing", self.names.published(name));
            return Err(fault(&self.dir, problem));
        };
        let expected = match layout {
            Layout::Plain => shape.to_vec(),
            Layout::Linear => vec![shape[1], shape[0]],
            Layout::Vector => vec![shape[1]],
        };
        // A patch embedding's inputs lie in several dimensions.
        let folded = match entry.shape[..] {
            [] | [_] => entry.shape.clone(),
            [first, ref rest @ ..] => vec![first, rest.iter().product()],
        };
        let problem = if folded != expected {
            format!(
                "has the shape {:?}, and the configuration needs {expected:?}",
                entry.shape
            )
        } else if !matches!(entry.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) {
            format!("is {:?}; F32, BF16 and F16 can be read", entry.dtype)
        } else {
            return Ok(entry);
        };
        let problem = format!("the tensor {} {problem}", self.names.published(name));
        Err(fault(&self.shards[entry.shard].path, problem))
    }

    /// Says that every tensor has been taken.
    ///
    /// # Errors
    /// [`VlmError::Weights`] names those that the model has no use for.
    pub fn finish(self) -> Result<(), VlmError> {
        let names: Vec<String> = self
            .names()
            .take(4)
            .map(|name| self.names.published(name))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let more = self.tensors.len() - names.len();
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let problem = format!(
            "{}{more} belong to no layer of the model that config.json describes",
            names.join(", ")
        );
        Err(fault(&self.dir, problem))
    }
}

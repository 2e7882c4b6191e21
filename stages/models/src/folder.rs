//! Files of a folder that somebody else wrote: what is read of them, and how new files come to be.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;

use dcsft_cache::fault_of_name;
use dcsft_vlm::error::VlmError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The file that says which family a model is of.
pub const CONFIG: &str = "config.json";

/// Most bytes of a settings file; a published `config.json` has some two thousand.
pub(crate) const SETTINGS_BYTES: u64 = 16 << 20;
/// Most bytes of an index of shards; that of a model of 72 billion weights has some hundred thousand.
pub(crate) const INDEX_BYTES: u64 = 64 << 20;
/// Most bytes of a vocabulary; that of Qwen2.5 has seven million.
pub(crate) const VOCABULARY_BYTES: u64 = 128 << 20;
/// Most bytes of a chat template; published ones have some ten thousand at most.
pub(crate) const TEMPLATE_BYTES: u64 = 1 << 20;

/// How a Git LFS pointer begins, which stands in the place of a file that was not downloaded.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// An error about a file.
pub(crate) fn fault(path: &Path, problem: impl Into<String>) -> VlmError {
    VlmError::Weights {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

/// An error of the system about a file.
pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> VlmError {
    let path = path.to_owned();
    move |source| VlmError::Io { path, source }
}

/// Whether something has this name, be it a link to nothing.
pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Checks a name that an index gives to a file of the folder `dir`; `index` is named in the error.
///
/// # Errors
/// [`VlmError::Weights`]: the file would lie elsewhere, or be no part of the folder's identity.
pub(crate) fn check_name(index: &Path, name: &str) -> Result<(), VlmError> {
    let Some(reason) = fault_of_name(name) else {
        return Ok(());
    };
    let problem = format!("it names the file {name:?}, which is no file of this folder: {reason}");
    Err(fault(index, problem))
}

/// Opens a regular file, also behind a link.
///
/// # Errors
/// [`VlmError::Io`], or [`VlmError::Weights`] for what is no file (reading a pipe would wait for ever) and for a Git
/// LFS pointer.
pub(crate) fn open(path: &Path) -> Result<File, VlmError> {
    let kind = fs::metadata(path).map_err(io(path))?;
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "folder"
        } else {
            "pipe or a device"
        };
        return Err(fault(path, format!("it is a {what}, and has to be a file")));
    }
    let mut head = [0; POINTER.len()];
    let read = File::open(path).and_then(|mut file| file.read(&mut head));
    if head[..read.map_err(io(path))?] == *POINTER {
        let problem = "it is a Git LFS pointer in the place of the file itself; fetch it with `git lfs pull`, or \
                       download it again";
        return Err(fault(path, problem));
    }
    File::open(path).map_err(io(path))
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// As [`open`]; [`VlmError::Weights`] for a file that is larger.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, VlmError> {
    let mut bytes = Vec::new();
    let mut file = open(path)?.take(most + 1);
    file.read_to_end(&mut bytes).map_err(io(path))?;
    if bytes.len() as u64 > most {
        let problem =
            format!("it has more than {most} bytes, the most that is read of such a file");
        return Err(fault(path, problem));
    }
    Ok(bytes)
}

/// Reads a settings file.
///
/// # Errors
/// As [`read`], or if it is no JSON of this type.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, VlmError> {
    let bytes = read(path, SETTINGS_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|error| fault(path, error.to_string()))
}

/// A new file. What is there already, also a link, is left as it is.
///
/// # Errors
/// [`VlmError::Io`], also where something has this name.
pub(crate) fn create(path: &Path) -> Result<File, VlmError> {
    File::create_new(path).map_err(io(path))
}

/// Writes a new file.
///
/// # Errors
/// As [`create`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), VlmError> {
    create(path)?.write_all(bytes).map_err(io(path))
}

/// Writes a new settings file.
///
/// # Errors
/// As [`create`].
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), VlmError> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|error| fault(path, error.to_string()))?;
    text.push('\n');
    write(path, text.as_bytes())
}

/// Copies a file's bytes into a new file, not its permissions: a file of a cache is read-only, its copy need not be.
///
/// # Errors
/// As [`open`] and [`create`].
pub(crate) fn copy(from: &Path, to: &Path, name: &str) -> Result<(), VlmError> {
    let (source, target) = (from.join(name), to.join(name));
    let mut bytes = open(&source)?;
    let mut file = create(&target)?;
    std::io::copy(&mut bytes, &mut file)
        .map(drop)
        .map_err(io(&source))
}

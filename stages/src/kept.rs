//! What a stage has of its finished samples while it is not done: a file of JSON lines in its state folder.
//!
//! The file lies about for as long as an interrupted stage is not resumed, and what is in it becomes part of the result.
//! So each line carries the BLAKE3 of its text together with the row and the ID of its sample: a changed digit, a line
//! that is missing or one of another sample is not believed. From the first such line on the samples are asked again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dcsft_cache::Digest;
use dcsft_engine::stage::{StageContext, StageError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::{Dataset, Sample};
use crate::files::remove;

/// How much work an unexpected end may cost.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// What stands around a line's digest and its text.
const HEAD: &str = "{\"blake3\":\"";
const MIDDLE: &str = "\",\"reply\":";
const TAIL: &str = "}\n";
const DIGEST_LEN: usize = 64;

/// The file of finished samples.
pub(crate) struct Kept {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    saved: Instant,
}

impl Kept {
    /// Opens the file and reads what an earlier try has left in it: the replies to the first samples of `data`.
    pub(crate) fn open<R: DeserializeOwned>(
        ctx: &mut StageContext,
        data: &Dataset,
    ) -> Result<(Self, Vec<R>), StageError> {
        let path = ctx.state().join("answers.jsonl");
        fs::create_dir_all(ctx.state()).map_err(StageError::io(ctx.state()))?;
        if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            ctx.log("what was saved of the answers is no file: all are asked again");
            remove(&path).map_err(StageError::io(&path))?;
        }
        let mut file = open(&path).map_err(StageError::io(&path))?;
        let known = read(&file, data.samples());
        if known.damaged {
            let (good, all) = (known.replies.len(), data.len());
            ctx.log(format!(
                "what was saved of the answers is damaged: samples {} to {all} are asked again",
                good + 1
            ));
        }
        file.set_len(known.bytes).map_err(StageError::io(&path))?;
        file.seek(io::SeekFrom::End(0))
            .map_err(StageError::io(&path))?;
        let kept = Self {
            path,
            file,
            pending: Vec::new(),
            saved: Instant::now(),
        };
        Ok((kept, known.replies))
    }

    /// Adds the reply to the sample in a row.
    pub(crate) fn push(&mut self, row: usize, sample: &Sample, reply: &impl Serialize) {
        // Numbers and strings: writing them into memory cannot fail. A float that is no number would be read back
        // as a damaged line, and asked again.
        if let Ok(text) = serde_json::to_string(reply) {
            let digest = digest(row, &sample.id, &text);
            let line = format!("{HEAD}{digest}{MIDDLE}{text}{TAIL}");
            self.pending.extend_from_slice(line.as_bytes());
        }
    }

    /// Saves if the last time is long enough ago.
    pub(crate) fn save_if_due(&mut self) -> Result<(), StageError> {
        if self.saved.elapsed() < SAVE_EVERY {
            Ok(())
        } else {
            self.save()
        }
    }

    /// Writes what was added to the disk.
    pub(crate) fn save(&mut self) -> Result<(), StageError> {
        self.file
            .write_all(&self.pending)
            .map_err(StageError::io(&self.path))?;
        self.file.sync_data().map_err(StageError::io(&self.path))?;
        self.pending.clear();
        self.saved = Instant::now();
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// The lines of the file that can be believed.
struct Known<R> {
    replies: Vec<R>,
    /// Their length.
    bytes: u64,
    /// Whether whole lines follow that cannot. A last line without an end is what a kill leaves behind.
    damaged: bool,
}

fn read<R: DeserializeOwned>(file: &File, samples: &[Sample]) -> Known<R> {
    let mut known = Known {
        replies: Vec::new(),
        bytes: 0,
        damaged: false,
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for (row, sample) in samples.iter().enumerate() {
        line.clear();
        let end = reader.read_until(b'\n', &mut line);
        if matches!(end, Ok(0)) {
            return known;
        }
        let Some(reply) = parse(&line, row, &sample.id) else {
            known.damaged = end.is_err() || line.ends_with(b"\n");
            return known;
        };
        known.replies.push(reply);
        known.bytes += line.len() as u64;
    }
    known
}

fn parse<R: DeserializeOwned>(line: &[u8], row: usize, id: &str) -> Option<R> {
    let line = std::str::from_utf8(line).ok()?;
    let (check, rest) = line.strip_prefix(HEAD)?.split_at_checked(DIGEST_LEN)?;
    let text = rest.strip_prefix(MIDDLE)?.strip_suffix(TAIL)?;
    if check != digest(row, id, text).to_string() {
        return None;
    }
    serde_json::from_str(text).ok()
}

fn digest(row: usize, id: &str, text: &str) -> Digest {
    // The lengths keep the three apart.
    let framed = format!("{row} {} {}\n{id}{text}", id.len(), text.len());
    Digest::of_bytes(framed.as_bytes())
}

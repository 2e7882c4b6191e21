//! What a stage has of its finished samples while it is not done: a file of JSON lines in its state folder. A shard's
//! file is all that it leaves to the whole.
//!
//! The file lies about for as long as an interrupted stage is not resumed, and what is in it becomes part of the result.
//! So each line carries the row of its sample, and the BLAKE3 of its text together with the row and the sample's ID: a
//! changed digit, or a line of another sample, is not believed. What follows the first such line is asked again, and so is
//! every sample that has no line.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dcsft_cache::{Digest, file};
use dcsft_engine::stage::{StageContext, StageError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::{Dataset, Sample};
use crate::files::remove;

/// How much work an unexpected end may cost.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// What stands around a line's digest, its row and its text.
const HEAD: &str = "{\"blake3\":\"";
const ROW: &str = "\",\"row\":";
const TEXT: &str = ",\"reply\":";
const TAIL: &str = "}\n";
const DIGEST_LEN: usize = 64;

/// The file's name in a state folder.
const FILE: &str = "answers.jsonl";

/// The file of finished samples.
pub(crate) struct Kept {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    saved: Instant,
}

impl Kept {
    /// Opens the file. Returns the replies to samples in `rows` that an earlier try has left in it, or that other attempts
    /// at the same result have left in theirs.
    pub(crate) fn open<R: DeserializeOwned>(
        ctx: &mut StageContext,
        data: &Dataset,
        rows: &Range<usize>,
    ) -> Result<(Self, BTreeMap<usize, R>), StageError> {
        let path = ctx.state().join(FILE);
        fs::create_dir_all(ctx.state()).map_err(StageError::io(ctx.state()))?;
        if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            ctx.log("what was saved of the answers is no file: it is left aside");
            remove(&path).map_err(StageError::io(&path))?;
        }
        let mut file = open(&path).map_err(StageError::io(&path))?;
        let mut known = Known::new(data.samples(), rows);
        let own = known.read(&file);
        if own.damaged {
            ctx.log(format!(
                "what was saved of the answers is damaged from line {} on: what follows is asked again",
                own.lines + 1
            ));
        }
        file.set_len(own.bytes).map_err(StageError::io(&path))?;
        file.seek(io::SeekFrom::End(0))
            .map_err(StageError::io(&path))?;
        for part in ctx.parts() {
            // One that is gone, or is still written to, has so much less to give.
            if let Ok(file) = file::open(&part.join(FILE)) {
                known.read(&file);
            }
        }
        if !known.replies.is_empty() {
            let (known, all) = (known.replies.len(), rows.len());
            ctx.log(format!(
                "{known} of {all} samples have their answers already"
            ));
        }
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
            let line = format!("{HEAD}{digest}{ROW}{row}{TEXT}{text}{TAIL}");
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

/// Replies of lines that can be believed.
struct Known<'a, R> {
    samples: &'a [Sample],
    /// Those that are asked for.
    rows: &'a Range<usize>,
    replies: BTreeMap<usize, R>,
}

/// How far a file can be believed.
struct Sound {
    lines: usize,
    /// Their length.
    bytes: u64,
    /// Whether whole lines follow that cannot be. A last line without an end is what a kill leaves behind.
    damaged: bool,
}

impl<'a, R: DeserializeOwned> Known<'a, R> {
    fn new(samples: &'a [Sample], rows: &'a Range<usize>) -> Self {
        Self {
            samples,
            rows,
            replies: BTreeMap::new(),
        }
    }

    /// Adds what a file has.
    fn read(&mut self, file: &File) -> Sound {
        let mut sound = Sound {
            lines: 0,
            bytes: 0,
            damaged: false,
        };
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let end = reader.read_until(b'\n', &mut line);
            if matches!(end, Ok(0)) {
                return sound;
            }
            if self.take(&line).is_none() {
                sound.damaged = end.is_err() || line.ends_with(b"\n");
                return sound;
            }
            sound.lines += 1;
            sound.bytes += line.len() as u64;
        }
    }

    /// Adds what a line has; none if it cannot be believed.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        let line = std::str::from_utf8(line).ok()?;
        let (check, rest) = line.strip_prefix(HEAD)?.split_at_checked(DIGEST_LEN)?;
        let (row, rest) = rest.strip_prefix(ROW)?.split_once(TEXT)?;
        let row: usize = row.parse().ok()?;
        let text = rest.strip_suffix(TAIL)?;
        let sample = self.samples.get(row)?;
        if check != digest(row, &sample.id, text).to_string() {
            return None;
        }
        if self.rows.contains(&row) {
            self.replies.insert(row, serde_json::from_str(text).ok()?);
        }
        Some(())
    }
}

fn digest(row: usize, id: &str, text: &str) -> Digest {
    // The lengths keep the three apart.
    let framed = format!("{row} {} {}\n{id}{text}", id.len(), text.len());
    Digest::of_bytes(framed.as_bytes())
}

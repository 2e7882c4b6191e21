//! Model folders of a run, kept in the stage's state until the run is done. Beside each lies its digest, which a run that
//! goes on compares.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use dcsft_cache::file;
use dcsft_engine::stage::{StageContext, StageError};
use dcsft_vlm::model::VisionLanguageModel;

use super::settings::{Run, checkpoint_name, checkpoint_step, checkpoint_steps};

/// Writes checkpoints so that a kill leaves whole ones only, and files equal to those of the base model are stored
/// once.
pub(super) struct Checkpoints {
    dir: PathBuf,
    /// The input model, whose files an adapter's checkpoint shares.
    base: PathBuf,
}

impl Checkpoints {
    /// Checkpoints of a run that starts from the input `model`.
    pub(super) fn new(ctx: &StageContext) -> Result<Self, StageError> {
        let dir = ctx.state().join("checkpoints");
        fs::create_dir_all(&dir).map_err(StageError::io(&dir))?;
        Ok(Self {
            dir,
            base: ctx.input("model")?.dir.clone(),
        })
    }

    /// The folder of the model after `step` steps.
    pub(super) fn place(&self, step: usize) -> PathBuf {
        self.dir.join(checkpoint_name(step))
    }

    /// Keeps the model after `step` steps.
    pub(super) fn save(
        &self,
        ctx: &StageContext,
        step: usize,
        model: &dyn VisionLanguageModel,
    ) -> Result<(), StageError> {
        let place = self.place(step);
        let partial = self.dir.join(format!(".{}", checkpoint_name(step)));
        for old in [&place, &partial] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(StageError::io(old))?;
            }
        }
        fs::create_dir_all(&partial).map_err(StageError::io(&partial))?;
        model.save(&partial).map_err(StageError::failed)?;
        for file in files(&partial)? {
            share(ctx, &self.base, &file)?;
            File::open(&file)
                .and_then(|file| file.sync_all())
                .map_err(StageError::io(&file))?;
        }
        self.write_digest(step, &partial)?;
        fs::rename(&partial, &place).map_err(StageError::io(&place))
    }

    /// Whether all checkpoints that are there are as they were written.
    ///
    /// # Errors
    /// Says which is not.
    pub(super) fn check(&self) -> Result<(), String> {
        let entries = fs::read_dir(&self.dir).map_err(|error| error.to_string())?;
        for entry in entries {
            let name = entry.map_err(|error| error.to_string())?.file_name();
            let Some(step) = name.to_str().and_then(checkpoint_step) else {
                continue;
            };
            let written = file::text(&self.digest_file(step)).unwrap_or_default();
            let found = self.digest(&self.place(step));
            if found.map_err(|error| error.to_string())? != written {
                return Err(format!("the checkpoint of step {step} is damaged"));
            }
        }
        Ok(())
    }

    /// Written before the checkpoint gets its name: where there is one, its digest is there too.
    fn write_digest(&self, step: usize, dir: &Path) -> Result<(), StageError> {
        let file = self.digest_file(step);
        file::write(&file, self.digest(dir)?).map_err(StageError::io(&file))
    }

    fn digest_file(&self, step: usize) -> PathBuf {
        self.dir.join(format!("{}.blake3", checkpoint_name(step)))
    }

    /// Of names and contents; a file that is one of the input model's is the cache's to check.
    fn digest(&self, dir: &Path) -> Result<String, StageError> {
        let mut hasher = blake3::Hasher::new();
        for file in files(dir)? {
            let name = file.file_name().unwrap_or_default();
            let shared = match (fs::metadata(self.base.join(name)), fs::metadata(&file)) {
                (Ok(base), Ok(own)) => is_same_file(&base, &own),
                _ => false,
            };
            let content = match shared {
                true => "shared".to_owned(),
                false => {
                    let mut content = blake3::Hasher::new();
                    let open = file::open(&file).map_err(StageError::io(&file))?;
                    content.update_reader(open).map_err(StageError::io(&file))?;
                    content.finalize().to_hex().to_string()
                }
            };
            for part in [name.as_encoded_bytes(), content.as_bytes()] {
                hasher
                    .update(&(part.len() as u64).to_le_bytes())
                    .update(part);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Keeps a checkpoint that another run has made, the files linked.
    pub(super) fn adopt(
        &self,
        ctx: &StageContext,
        step: usize,
        from: &Path,
    ) -> Result<(), StageError> {
        let to = self.place(step);
        if to.exists() {
            fs::remove_dir_all(&to).map_err(StageError::io(&to))?;
        }
        fs::create_dir_all(&to).map_err(StageError::io(&to))?;
        link_all(ctx, from, &to)?;
        self.write_digest(step, &to)
    }

    /// Puts the checkpoints of a run of `total` steps into the stage's outputs, the last one also as `model`.
    pub(super) fn publish(
        &self,
        ctx: &StageContext,
        run: &Run,
        total: usize,
    ) -> Result<(), StageError> {
        for step in checkpoint_steps(total, run.config.save_steps) {
            let named = run.config.steps.map(|_| checkpoint_name(step));
            let last = (step == total).then(|| "model".to_owned());
            for output in named.into_iter().chain(last) {
                link_all(ctx, &self.place(step), &ctx.output(&output)?)?;
            }
        }
        Ok(())
    }
}

/// Replaces `file` by a link to the file of the same name in `base`, if they are equal.
fn share(ctx: &StageContext, base: &Path, file: &Path) -> Result<(), StageError> {
    let Some(name) = file.file_name() else {
        return Ok(());
    };
    let original = base.join(name);
    let (Ok(old), Ok(new)) = (fs::metadata(&original), fs::metadata(file)) else {
        return Ok(());
    };
    if old.len() != new.len() || is_same_file(&old, &new) || !is_equal(&original, file)? {
        return Ok(());
    }
    fs::remove_file(file).map_err(StageError::io(file))?;
    ctx.link(&original, file)
}

/// Whether two names mean one file, as where the model linked its base.
#[cfg(unix)]
fn is_same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same_file(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    false
}

/// Whether two files of the same length hold the same bytes, piece by piece: they may be larger than the memory.
fn is_equal(a: &Path, b: &Path) -> Result<bool, StageError> {
    const PIECE: usize = 1 << 20;
    let open = |path: &Path| {
        let file = file::open(path).map_err(StageError::io(path))?;
        Ok::<_, StageError>(BufReader::with_capacity(PIECE, file))
    };
    let (mut first, mut second) = (open(a)?, open(b)?);
    loop {
        let left = first.fill_buf().map_err(StageError::io(a))?;
        let right = second.fill_buf().map_err(StageError::io(b))?;
        let length = left.len().min(right.len());
        if left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        first.consume(length);
        second.consume(length);
    }
}

/// Links the files of a model's folder into another folder.
fn link_all(ctx: &StageContext, from: &Path, to: &Path) -> Result<(), StageError> {
    for file in files(from)? {
        if let Some(name) = file.file_name() {
            ctx.link(&file, &to.join(name))?;
        }
    }
    Ok(())
}

/// The files of a model's folder.
fn files(dir: &Path) -> Result<Vec<PathBuf>, StageError> {
    let entries = fs::read_dir(dir).map_err(StageError::io(dir))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(StageError::io(dir))?;
    files.sort();
    Ok(files)
}

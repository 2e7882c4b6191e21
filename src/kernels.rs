//! The folder in which the workers of a run share compiled kernels: burn compiles for a GPU at first use, in each process.
//!
//! It lasts as long as the run. Kept for longer it would have to be checked like everything that results come from, as
//! nothing in it says whether a byte has changed. A run that was killed leaves its folder, and the next one removes it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tracing::debug;

/// The variable that tells workers of the folder.
const FOLDER: &str = "DCSFT_KERNELS";

/// How the folders' names begin.
const PREFIX: &str = "dcsft-kernels-";

/// The file in a folder that its run holds a lock on.
const HELD: &str = "held";

/// A folder that nobody holds is a leftover once it is as old: a younger one may be about to be held.
const AGE: Duration = Duration::from_mins(1);

/// The folder, if there is one.
pub(crate) struct Kernels(Option<Folder>);

/// A folder and the lock on it. The file is closed first: some systems remove no open file.
struct Folder {
    _held: File,
    dir: TempDir,
}

impl Kernels {
    /// For runs on these devices. Without room for a folder each worker compiles its own.
    pub(crate) fn of(devices: &[String]) -> Self {
        if !devices.iter().any(|device| device.starts_with("cuda")) {
            return Self(None);
        }
        let base = std::env::temp_dir();
        remove_leftovers(&base, AGE);
        let made = Folder::new(&base);
        Self(made.map(Some).unwrap_or_else(|error| {
            debug!("workers share no kernels: {error}");
            None
        }))
    }

    /// What workers have in their environment.
    pub(crate) fn variable(&self) -> Option<(String, String)> {
        let folder = self.0.as_ref()?.dir.path().to_str()?;
        Some((FOLDER.to_owned(), folder.to_owned()))
    }
}

impl Folder {
    fn new(base: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base)?;
        let held = File::create(dir.path().join(HELD))?;
        held.lock()?;
        Ok(Self { _held: held, dir })
    }
}

/// Removes the folders in `base` that no run holds and that are older than `age`. Those of other users stay: the system
/// sees to it.
fn remove_leftovers(base: &Path, age: Duration) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && is_leftover(&entry.path(), age).unwrap_or(false) {
            // Somebody else may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_leftover(folder: &Path, age: Duration) -> io::Result<bool> {
    let meta = fs::symlink_metadata(folder)?;
    let old = meta.modified()?.elapsed().is_ok_and(|since| since >= age);
    if !meta.is_dir() || !old {
        return Ok(false);
    }
    match File::open(folder.join(HELD)) {
        Ok(held) => Ok(held.try_lock().is_ok()),
        // Its run was killed before it held it.
        Err(error) => Ok(error.kind() == io::ErrorKind::NotFound),
    }
}

/// Has this worker share the run's kernels.
pub(crate) fn share() {
    #[cfg(feature = "cuda")]
    if let Some(folder) = std::env::var_os(FOLDER) {
        dcsft_tensor::device::share_kernels(std::path::Path::new(&folder));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn workers_on_cuda_are_told_of_a_folder_that_goes_with_the_run() {
        let devices = |names: &[&str]| -> Vec<String> { names.iter().map(|&n| n.into()).collect() };
        assert_eq!(Kernels::of(&devices(&["cpu"])).variable(), None);
        let kernels = Kernels::of(&devices(&["cuda:0", "cuda:1"]));
        let (name, folder) = kernels.variable().expect("a folder");
        assert_eq!(name, FOLDER);
        assert!(Path::new(&folder).is_dir());
        drop(kernels);
        assert!(!Path::new(&folder).exists());
    }

    #[test]
    fn what_a_killed_run_has_left_goes_with_the_next() {
        let base = tempfile::tempdir().expect("a folder");
        let running = Folder::new(base.path()).expect("a folder");
        let folder = |name: &str, files: &[&str]| {
            let folder = base.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            for file in files {
                fs::write(folder.join(file), "kernels").expect("a file");
            }
            folder
        };
        let killed = folder("dcsft-kernels-killed", &[HELD, "compiled"]);
        let killed_early = folder("dcsft-kernels-early", &[]);
        let other = folder("dcsft-other", &[HELD]);

        remove_leftovers(base.path(), Duration::from_hours(1));
        assert!(killed.exists() && killed_early.exists(), "they are young");
        remove_leftovers(base.path(), Duration::ZERO);
        assert!(!killed.exists() && !killed_early.exists());
        assert!(other.exists() && running.dir.path().exists());
    }
}

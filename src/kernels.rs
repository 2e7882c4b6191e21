//! The folder in which the workers of a run share compiled kernels: burn compiles for a GPU at first use, in each process.
//!
//! It lasts as long as the run. Kept for longer it would have to be checked like everything that results come from, as
//! nothing in it says whether a byte has changed.

use tempfile::TempDir;
use tracing::debug;

/// The variable that tells workers of the folder.
const FOLDER: &str = "DCSFT_KERNELS";

/// The folder, if there is one.
pub(crate) struct Kernels(Option<TempDir>);

impl Kernels {
    /// For runs on these devices. Without room for a folder each worker compiles its own.
    pub(crate) fn of(devices: &[String]) -> Self {
        let compiled = devices.iter().any(|device| device.starts_with("cuda"));
        let folder = || tempfile::Builder::new().prefix("dcsft-kernels-").tempdir();
        let made = compiled.then(folder).transpose();
        Self(made.unwrap_or_else(|error| {
            debug!("workers share no kernels: {error}");
            None
        }))
    }

    /// What workers have in their environment.
    pub(crate) fn variable(&self) -> Option<(String, String)> {
        let folder = self.0.as_ref()?.path().to_str()?;
        Some((FOLDER.to_owned(), folder.to_owned()))
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
}

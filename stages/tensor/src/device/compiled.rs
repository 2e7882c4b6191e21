//! How burn's devices are set up: by this program alone, and with compiled kernels in a folder that processes share.

use std::path::{Path, PathBuf};

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl::records::RecordLevel;

/// Has kernels that are compiled for CUDA from now on kept in a folder, and those that are there taken from it, whichever
/// process has compiled them. All have to be of one program and on one machine. What cannot be read or written there is
/// compiled again. Nothing happens once a device is open.
pub fn share_kernels(folder: &Path) {
    set_up(Some(folder));
}

/// As [`share_kernels`], or with each process's kernels its own. Files of the working folder that would set up burn's
/// devices (`cubecl.toml`, `burn.toml`) are not asked: the same spec gives the same bytes in any folder.
pub(super) fn set_up(shared: Option<&Path>) {
    let mut config = CubeClRuntimeConfig::default();
    config.environment.records.level = RecordLevel::Off;
    // Without a folder nothing is kept, and there would be no telling where.
    let folder = shared.map_or_else(std::env::temp_dir, PathBuf::from);
    config.environment.path = CacheConfig::Directory(folder);
    #[cfg(feature = "cuda")]
    {
        config.compilation.cache = shared.is_some();
    }
    CubeClRuntimeConfig::try_set(config);
}

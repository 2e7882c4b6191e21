//! Files as they are.

use std::fs;
use std::path::Path;

use super::error::ExportError;

/// Copies the files of a folder and of the folders in it, but those at its top that are named in `without`. Copies and no
/// links: whoever changes an export must not change the cache.
pub(super) fn copy_all(from: &Path, to: &Path, without: &[&str]) -> Result<(), ExportError> {
    for entry in fs::read_dir(from).map_err(ExportError::io(from))? {
        let entry = entry.map_err(ExportError::io(from))?;
        let (path, name) = (entry.path(), entry.file_name());
        let target = to.join(&name);
        if without.iter().any(|other| name == **other) {
            continue;
        }
        if path.is_dir() {
            fs::create_dir_all(&target).map_err(ExportError::io(&target))?;
            copy_all(&path, &target, &[])?;
        } else {
            copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Copies a file's bytes; the copy can be written to, which a file of the cache cannot.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), ExportError> {
    let mut source = fs::File::open(from).map_err(ExportError::io(from))?;
    let mut target = fs::File::create_new(to).map_err(ExportError::io(to))?;
    std::io::copy(&mut source, &mut target)
        .map(drop)
        .map_err(ExportError::io(to))
}

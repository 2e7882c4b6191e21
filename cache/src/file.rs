//! Files of the cache and of its workspaces, for whoever keeps some there: what is read may be anything by now, since a
//! failing disk, or a person, may have put something else in a file's place. Nothing here waits for the other end of a
//! pipe, and what is written takes the place of what is no file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::read;

/// Opens a regular file for reading.
///
/// # Errors
/// Those of the file system; and if it is a folder, a pipe, a socket or a device.
pub fn open(path: &Path) -> io::Result<File> {
    read::open(path).map(|(file, _)| file)
}

/// The bytes of a regular file.
///
/// # Errors
/// Those of [`open`], and of reading.
pub fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a regular file.
///
/// # Errors
/// Those of [`open`], of reading, and if it is not UTF-8.
pub fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a file whose loss costs nothing. A pipe, a socket or a device that has its name is removed first.
///
/// # Errors
/// Those of the file system; and if a folder has its name.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    remove_special(path)?;
    fs::write(path, bytes)
}

/// Adds a text to the end of a file, which is made if it is not there. What has its name is dealt with as in [`write`].
///
/// # Errors
/// Those of [`write`].
pub fn append(path: &Path, line: &str) -> io::Result<()> {
    remove_special(path)?;
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(line.as_bytes())
}

/// Opens a file for reading and writing, made if it is not there; what has its name and is no file is moved aside. Such
/// a file holds a lock, or words, and nothing that is needed.
///
/// # Errors
/// Those of the file system.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    };
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        // Beside it, and not removed: a folder may hold anything.
        let mut asides = (0_u32..).map(|n| format!("{}.was-no-file-{n}", path.display()));
        let free = |aside: &String| fs::symlink_metadata(aside).is_err();
        if let Some(aside) = asides.find(free) {
            fs::rename(path, aside)?;
        }
    }
    open()
}

fn remove_special(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() && !meta.is_dir() => fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn pipe(path: &Path) {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }

    #[test]
    fn a_pipe_is_neither_read_nor_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        pipe(&path);
        assert!(bytes(&path).is_err());
        assert!(text(&path).is_err());
        write(&path, "a").unwrap();
        assert_eq!(text(&path).unwrap(), "a");
        fs::remove_file(&path).unwrap();
        pipe(&path);
        append(&path, "a\n").unwrap();
        append(&path, "b\n").unwrap();
        assert_eq!(text(&path).unwrap(), "a\nb\n");
    }

    #[test]
    fn what_is_no_file_is_moved_out_of_the_way_of_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        pipe(&path);
        open_or_create(&path).unwrap().write_all(b"me").unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        open_or_create(&path).unwrap().write_all(b"me").unwrap();
        assert_eq!(text(&path).unwrap(), "me");
    }
}

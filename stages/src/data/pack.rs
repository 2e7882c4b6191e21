//! Reading slices of `images.pack` from several threads at once.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::error::DataError;
use super::sample::ImageEntry;

/// An open pack. Reads name their position, so threads need no lock.
#[derive(Debug)]
pub(super) struct Pack {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Pack {
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let file = dcsft_cache::file::open(path).map_err(DataError::io(path))?;
        let len = file.metadata().map_err(DataError::io(path))?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            len,
        })
    }

    /// The bytes of an image. A range beyond the end is an error before anything is allocated.
    pub(super) fn image(&self, entry: &ImageEntry) -> Result<Vec<u8>, DataError> {
        let ImageEntry { offset, bytes, .. } = *entry;
        let end = offset.saturating_add(bytes);
        if end > self.len {
            let message = format!(
                "an image at {offset}..{end} lies beyond its {} bytes",
                self.len
            );
            return Err(DataError::format(&self.path, message));
        }
        let mut buffer = vec![0; bytes as usize];
        self.read_at(&mut buffer, offset)
            .map_err(DataError::io(&self.path))?;
        Ok(buffer)
    }

    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let read = std::os::windows::fs::FileExt::seek_read(&self.file, buffer, offset)?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            buffer = &mut buffer[read..];
            offset += read as u64;
        }
        Ok(())
    }
}

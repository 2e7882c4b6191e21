//! Reading slices of `images.pack` from several threads at once.

use std::fs::File;
use std::io;
use std::path::Path;

/// An open pack. Reads name their position, so threads need no lock.
#[derive(Debug)]
pub(super) struct Pack {
    file: File,
    len: u64,
}

impl Pack {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }

    /// Bytes in the pack.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `bytes` bytes from `offset`. A range beyond the end is an error before anything is allocated.
    pub(super) fn read(&self, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.len) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut buffer = vec![0; bytes as usize];
        self.read_at(&mut buffer, offset)?;
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

//! Reading what may be anything: a failing disk, or a person, may have put something else in a file's place.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use crate::StoreError;

/// How often a file is opened again whose name a network file system's server no longer knows by the old handle.
const STALE_TRIES: u32 = 5;

/// Opens a regular file for reading, and never waits for the other end of a pipe.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let mut tries = 0;
    loop {
        match open_once(path) {
            Err(error) if is_stale(&error) && tries < STALE_TRIES => tries += 1,
            other => return other,
        }
    }
}

fn open_once(path: &Path) -> io::Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits() as i32,
    );
    let file = options.open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() {
        Ok((file, meta))
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Reads a file that is never written to in place, with as few calls as can be: look-ups are made by the thousand.
pub(crate) fn whole(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    let (mut file, meta) = open(path)?;
    let mut bytes = vec![0; meta.len() as usize];
    file.read_exact(&mut bytes)?;
    Ok((bytes, meta))
}

/// Whether an error of reading speaks of the thing that was read, and not of this process or of the network: then the
/// thing counts as damaged.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{
        Interrupted, NetworkDown, NetworkUnreachable, NotConnected, NotFound, OutOfMemory,
        TimedOut, WouldBlock,
    };
    let elsewhere = [
        Interrupted,
        NetworkDown,
        NetworkUnreachable,
        NotConnected,
        NotFound,
        OutOfMemory,
        TimedOut,
        WouldBlock,
    ];
    !elsewhere.contains(&error.kind()) && !is_stale(error) && !is_short_of_files(error)
}

/// As [`is_damage`], for an error that names its path already.
pub(crate) fn is_damage_of(error: &StoreError) -> bool {
    match error {
        StoreError::Io { cause, .. } => is_damage(cause),
        StoreError::Permission { .. }
        | StoreError::Unsupported { .. }
        | StoreError::BadName { .. }
        | StoreError::Changed { .. } => true,
        _ => false,
    }
}

#[cfg(unix)]
pub(crate) fn is_stale(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::STALE)
}

#[cfg(not(unix))]
pub(crate) fn is_stale(_: &io::Error) -> bool {
    false
}

#[cfg(unix)]
fn is_short_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let found = Errno::from_io_error(error);
    found == Some(Errno::MFILE) || found == Some(Errno::NFILE)
}

#[cfg(not(unix))]
fn is_short_of_files(_: &io::Error) -> bool {
    false
}

//! The user's files: whether they are still those that a key was made of.

use std::fs;
use std::path::Path;

use super::outcome::{Assignment, Shared};
use super::trouble::Trouble;
use crate::journal::Reason;
use crate::key::FileDigests;
use crate::worker::done::Done;

/// Refuses a result whose files changed while the stage read them: the key would promise what is not so.
pub(super) fn check(assignment: &Assignment<'_>, shared: &Shared<'_>) -> Result<(), Trouble> {
    let now = FileDigests::new(shared.store, shared.paranoid)
        .of(assignment.node)
        .map_err(|error| Trouble::Stage {
            reason: Reason::FilesChanged,
            message: error.to_string(),
            again: true,
        })?;
    let planned = assignment.files.iter();
    let mut changed = planned.filter(|(field, identity)| now.get(*field) != Some(identity));
    match changed.next() {
        None => Ok(()),
        Some((field, _)) => Err(Trouble::Stage {
            reason: Reason::FilesChanged,
            message: format!("the files of `{field}` changed while the stage ran: run again"),
            again: true,
        }),
    }
}

/// Why a result that an earlier run has left may not be that of the user's files as they are. They were not compared
/// when it ended, so none of them may have been touched since it began.
pub(super) fn changed_since(assignment: &Assignment<'_>, done: &Done) -> Option<String> {
    let params = assignment.node.files.iter();
    let mut files = params.flat_map(|param| &param.files);
    let touched = files.find(|(_, path)| match changed_unix_nanos(path) {
        Some(changed) => changed >= done.started_unix_nanos,
        None => true,
    })?;
    Some(format!(
        "{} may have changed meanwhile",
        touched.1.display()
    ))
}

/// When a file, or the newest thing in a folder, changed last: content or inode. None where that is not known.
#[cfg(unix)]
fn changed_unix_nanos(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).ok()?;
    let own = u64::try_from(meta.ctime())
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(u64::try_from(meta.ctime_nsec()).ok()?)?;
    if !meta.is_dir() {
        return Some(own);
    }
    let mut newest = own;
    for entry in fs::read_dir(path).ok()? {
        newest = newest.max(changed_unix_nanos(&entry.ok()?.path())?);
    }
    Some(newest)
}

#[cfg(not(unix))]
fn changed_unix_nanos(_: &Path) -> Option<u64> {
    None
}

//! The lines that a worker says, and the end of its log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

pub(super) use crate::lines::listen;

/// How much of a log's end is read.
const MAX_TAIL: u64 = 64 << 10;

/// The last `count` lines of a log. However long it is, its end alone is read.
pub(super) fn tail(log: &Path, count: usize) -> Vec<String> {
    let read = || -> io::Result<(bool, Vec<u8>)> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        let cut = length > MAX_TAIL;
        if cut {
            file.seek(SeekFrom::End(-(MAX_TAIL as i64)))?;
        }
        let mut text = Vec::new();
        file.take(MAX_TAIL).read_to_end(&mut text)?;
        Ok((cut, text))
    };
    let (cut, text) = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // What comes before the first end of a line began further up.
    let whole = match text.split_once('\n') {
        Some((_, rest)) if cut => rest,
        _ => &*text,
    };
    let lines: Vec<&str> = whole.lines().collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_long_log_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "line\n".repeat(100_000) + "last but one\nlast\n").unwrap();
        assert_eq!(tail(&log, 2), ["last but one", "last"]);
        std::fs::write(&log, "only\n").unwrap();
        assert_eq!(tail(&log, 2), ["only"]);
        std::fs::write(&log, "x".repeat(200_000)).unwrap();
        assert_eq!(tail(&log, 2)[0].len(), MAX_TAIL as usize);
        assert!(tail(&folder.path().join("none"), 2).is_empty());
    }
}

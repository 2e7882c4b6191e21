//! Lines that another process writes, with bounds on each of them and on how many wait to be heard.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{self, Receiver};

/// Longest line that is kept, in bytes. A worker's own events are shorter, whatever they say.
const MAX_LINE: usize = 256 << 10;
/// Lines that may wait; then whoever writes waits.
const WAITING: usize = 64;

/// Reads lines on a thread of its own, until the last process that has the other end closes it.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn listen(source: impl Read + Send + 'static) -> io::Result<Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::sync_channel(WAITING);
    std::thread::Builder::new().spawn(move || {
        let mut reader = BufReader::new(source);
        while let Ok(Some(line)) = read_line(&mut reader, MAX_LINE) {
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The next line without its end, none at the end. A line longer than `limit` is cut and says how much is missing.
fn read_line(reader: &mut impl BufRead, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut length = 0;
    let mut ended = false;
    while !ended {
        let available = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        if available.is_empty() {
            if length == 0 {
                return Ok(None);
            }
            break;
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        ended = end.is_some();
        let part = &available[..end.unwrap_or(available.len())];
        let room = limit.saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        length += part.len();
        let used = part.len() + usize::from(ended);
        reader.consume(used);
    }
    if length > line.len() {
        line.extend_from_slice(format!(" ... ({} bytes more)", length - line.len()).as_bytes());
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, limit: usize) -> Vec<String> {
        // A small buffer makes lines span several of them.
        let mut reader = BufReader::with_capacity(3, text.as_bytes());
        std::iter::from_fn(|| read_line(&mut reader, limit).unwrap())
            .map(|line| String::from_utf8(line).unwrap())
            .collect()
    }

    #[test]
    fn lines_come_whole_and_long_ones_are_cut() {
        assert_eq!(
            all("one\n\ntwo three\nend", 100),
            ["one", "", "two three", "end"]
        );
        assert_eq!(
            all("0123456789\nnext\n", 4),
            ["0123 ... (6 bytes more)", "next"]
        );
    }
}

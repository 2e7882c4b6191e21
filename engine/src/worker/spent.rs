//! What attempts spent that gave no result and whose state the next one carries on from.
//!
//! Only figures for people, but figures that are compared: training that was killed half-way has taken what it took
//! before and after. So a worker notes every few seconds what it has spent so far, and whoever follows it counts that,
//! if there is any state to carry on from.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dcsft_cache::file;

use crate::stage::Cost;
use crate::stage::usage::cpu_seconds;

/// How often a worker notes it.
const EVERY: Duration = Duration::from_secs(5);

/// What earlier attempts spent.
pub(crate) fn before(workspace: &Path) -> Cost {
    read(&earlier(workspace)).unwrap_or_default()
}

/// What attempts spent, the one included that was killed, or goes on.
pub(crate) fn so_far(workspace: &Path) -> Cost {
    before(workspace) + read(&running(workspace)).unwrap_or_default()
}

/// Notes what this attempt and those before it spent, once it has ended by itself.
pub(crate) fn note(workspace: &Path, cost: Cost) {
    write(&earlier(workspace), cost);
    let _ = fs::remove_file(running(workspace));
}

/// Begins an attempt: what an attempt that was killed had noted counts with what was before, unless there is no state
/// to carry on from. Notes from now on what this one spends.
pub(crate) fn begin(workspace: &Path, state: &Path) {
    let carries_on = fs::read_dir(state).is_ok_and(|mut entries| entries.next().is_some());
    if !carries_on {
        let _ = fs::remove_file(earlier(workspace));
        let _ = fs::remove_file(running(workspace));
    } else if let Some(killed) = read(&running(workspace)) {
        note(workspace, before(workspace) + killed);
    }
    let (path, began) = (running(workspace), Instant::now());
    // Without the thread a kill costs the figure, and nothing else.
    let _ = std::thread::Builder::new().spawn(move || {
        loop {
            std::thread::sleep(EVERY);
            let cost = Cost {
                seconds: began.elapsed().as_secs_f64(),
                cpu_seconds: cpu_seconds(),
            };
            write(&path, cost);
        }
    });
}

fn read(path: &Path) -> Option<Cost> {
    serde_json::from_slice(&file::bytes(path).ok()?).ok()
}

fn write(path: &Path, cost: Cost) {
    let part = path.with_extension("part");
    if let Ok(text) = serde_json::to_vec(&cost) {
        let _ = file::write(&part, text).and_then(|()| fs::rename(&part, path));
    }
}

fn earlier(workspace: &Path) -> PathBuf {
    workspace.join("spent.json")
}

fn running(workspace: &Path) -> PathBuf {
    workspace.join("spending.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Cost = Cost {
        seconds: 1.0,
        cpu_seconds: Some(0.5),
    };

    #[test]
    fn what_a_killed_attempt_spent_counts_where_its_state_is_carried_on() {
        let dir = tempfile::tempdir().unwrap();
        let (workspace, state) = (dir.path(), dir.path().join("state"));
        fs::create_dir(&state).unwrap();
        fs::write(state.join("weights"), "").unwrap();
        note(workspace, SECOND);
        write(&running(workspace), SECOND);
        begin(workspace, &state);
        assert_eq!(before(workspace), SECOND + SECOND);
        begin(workspace, &state);
        assert_eq!(before(workspace), SECOND + SECOND, "counted once");
    }

    #[test]
    fn what_was_spent_for_nothing_is_no_part_of_what_a_result_took() {
        let dir = tempfile::tempdir().unwrap();
        let (workspace, state) = (dir.path(), dir.path().join("state"));
        note(workspace, SECOND);
        write(&running(workspace), SECOND);
        begin(workspace, &state);
        assert_eq!(before(workspace), Cost::default());
    }
}

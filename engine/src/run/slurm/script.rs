//! The script of an array: one task for each line of a list, which are workspaces.

use std::path::{Path, PathBuf};

/// What all scripts of a run share.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// The binary.
    pub(super) program: PathBuf,
    /// Variables of the worker.
    pub(super) env: Vec<(String, String)>,
}

impl Script {
    /// The text. `list` has a workspace a line. The worker is a child: the script outlives it to say how it ended, and
    /// hands on what it is asked to do.
    pub(super) fn text(&self, name: &str, list: &Path, threads: usize) -> String {
        let exports: String = self
            .env
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
            .collect();
        let (program, list) = (quoted_path(&self.program), quoted_path(list));
        format!(
            r#"#!/bin/sh
work=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {list})
cd "$work" || exit 97
this={name}-$SLURM_ARRAY_TASK_ID
export RAYON_NUM_THREADS={threads}
{exports}trap 'kill -TERM "$worker" 2>/dev/null' TERM INT
{program} worker "job-$this.json" --events "events-$this.jsonl" </dev/null >>"log-$this" 2>&1 &
worker=$!
wait "$worker"; code=$?
while kill -0 "$worker" 2>/dev/null; do wait "$worker"; code=$?; done
echo "$code" >"exit-$this.new" && mv "exit-$this.new" "exit-$this"
exit "$code"
"#
        )
    }
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}

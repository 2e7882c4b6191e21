//! What this program is, for records, journals and `--version`.

use dcsft_engine::provenance::Program;

/// Written by the build script: the commit, with `-dirty` where the checkout had changes.
const COMMIT: Option<&str> = option_env!("DCSFT_COMMIT");

/// This program.
pub(crate) fn this() -> Program {
    let commit = COMMIT.map(|text| text.strip_suffix("-dirty").unwrap_or(text));
    Program {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: commit.map(str::to_owned),
        dirty: COMMIT.is_some_and(|text| text.ends_with("-dirty")),
    }
}

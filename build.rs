//! Notes the commit that the program is built from, where it is built in a checkout of its own and git is there.
//!
//! Runs again when sources change, not at each commit: a commit alone changes nothing in the program, and one that was
//! built from changes says so with the commit that they were made to.

use std::path::{Path, PathBuf};
use std::process::Command;

/// How deep below the root the sources of a crate begin.
const DEPTH: usize = 3;

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo::rerun-if-changed=Cargo.toml");
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-changed=build.rs");
    watch(&root, DEPTH);
    let mut version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    if let Some(commit) = commit(&root) {
        println!("cargo::rustc-env=DCSFT_COMMIT={commit}");
        version += &format!(" ({commit})");
    }
    println!("cargo::rustc-env=DCSFT_VERSION={version}");
}

/// Watches the folders `src` of all crates.
fn watch(folder: &Path, depth: usize) {
    let sources = folder.join("src");
    if sources.is_dir() {
        println!("cargo::rerun-if-changed={}", sources.display());
    }
    if depth == 0 {
        return;
    }
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in below {
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.');
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !hidden && name != "target" && name != "src" {
            watch(&entry.path(), depth - 1);
        }
    }
}

/// The commit in hexadecimal digits, with `-dirty` behind it where tracked files have changed. None outside a checkout,
/// and in a folder that merely lies inside another project's.
fn commit(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            // Looking must not change the checkout.
            .env("GIT_OPTIONAL_LOCKS", "0")
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let same = |path: &Path| path.canonicalize().ok();
    if same(Path::new(&top))? != same(root)? {
        return None;
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let hexadecimal = commit.bytes().all(|digit| digit.is_ascii_hexdigit());
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let suffix = if changes.is_empty() { "" } else { "-dirty" };
    (hexadecimal && !commit.is_empty()).then(|| format!("{commit}{suffix}"))
}

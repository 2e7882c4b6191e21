//! Broken specs and their exact messages.
//!
//! Each `spec/broken/NAME.yaml` has its messages in `NAME.txt`. `UPDATE_EXPECTED=1` writes them anew; read the
//! difference before committing it.

#[path = "spec/kinds.rs"]
mod kinds;

use std::path::{Path, PathBuf};

use dcsft_engine::spec::load;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spec/broken")
}

fn specs() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("the folder of broken specs");
    let mut specs: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    specs.sort();
    specs
}

/// The messages of a spec, which names itself without its folder.
fn messages(spec: &Path) -> String {
    let name = spec.file_name().expect("a name").to_string_lossy();
    match load(spec, &[], &kinds::registry()) {
        Ok(_) => panic!("{name} loads"),
        Err(found) => found
            .render(false)
            .replace(&format!("{}/", folder().display()), ""),
    }
}

#[test]
fn broken_specs_say_where_what_and_what_would_be_right() {
    let specs = specs();
    assert!(specs.len() >= 10, "only {} broken specs", specs.len());
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut differ = Vec::new();
    for spec in specs {
        let found = messages(&spec);
        let expected = spec.with_extension("txt");
        if update {
            std::fs::write(&expected, &found).expect("the expected messages");
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        if found != wanted {
            differ.push(format!(
                "{}\n--- expected\n{wanted}--- found\n{found}",
                spec.display()
            ));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

//! What a path in a spec is relative to, and who is named where it leads nowhere.
//!
//! One test, since the environment and the current folder belong to the whole process.

#[path = "spec/kinds.rs"]
mod kinds;

use std::fs;
use std::path::PathBuf;

use dcsft_engine::spec::load;

const SPEC: &str = r#"
dcsft: 1
name: paths
vars:
  folder: sets
  list: "${env.SPEC_PATHS_LIST:-list.json}"
stages:
  written: {uses: world, with: {path: sets/list.json}}
  folder: {uses: world, with: {path: "${vars.folder}/list.json"}}
  variable: {uses: world, with: {path: "${vars.list}"}}
"#;

#[test]
fn paths_are_relative_to_where_they_were_given() {
    let lab = tempfile::tempdir().expect("a scratch folder");
    let lab = lab.path().canonicalize().expect("its path");
    let file = |name: &str| {
        let path = lab.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, "{}").expect("a file");
        path
    };
    let beside_spec = [file("specs/sets/list.json"), file("specs/list.json")];
    let here = [file("here/mine/list.json"), file("here/007/list.json")];
    let spec = lab.join("specs/spec.yaml");
    fs::write(&spec, SPEC).expect("the spec");
    std::env::set_current_dir(lab.join("here")).expect("a folder to stand in");

    let read = |overrides: &[&str]| -> Result<Vec<PathBuf>, String> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let loaded =
            load(&spec, &overrides, &kinds::registry()).map_err(|found| found.render(false))?;
        let files = |node: &dcsft_engine::study::Node| node.files[0].files[0].1.clone();
        Ok(loaded.study.nodes.iter().map(files).collect())
    };
    let set = |name: &str, value: Option<&str>| {
        // SAFETY: no other thread of this process reads the environment: this is its only test.
        unsafe {
            match value {
                Some(value) => std::env::set_var(name, value),
                None => std::env::remove_var(name),
            }
        }
    };

    // What the spec says, and a variable's default in it: the spec's folder.
    let [list, default] = &beside_spec;
    assert_eq!(
        read(&[]).unwrap(),
        [list.clone(), list.clone(), default.clone()]
    );

    // `--set` and a variable that is set: the current folder, however they reach the param.
    let [mine, number] = &here;
    set("SPEC_PATHS_LIST", Some("007/list.json"));
    let found = read(&[
        "vars.folder=mine",
        "stages.written.with.path=./mine/list.json",
    ])
    .unwrap();
    assert_eq!(found, [mine.clone(), mine.clone(), number.clone()]);

    // Absolute paths are what they are, and `~` is the home folder.
    set("HOME", Some(lab.join("here").to_str().expect("UTF-8")));
    set("SPEC_PATHS_LIST", Some("~/mine/list.json"));
    let absolute = format!("stages.written.with.path={}", default.display());
    let found = read(&[&absolute, "vars.folder=~/mine"]).unwrap();
    assert_eq!(found, [default.clone(), mine.clone(), mine.clone()]);

    // What is not there is named as it was looked for, with whoever gave it.
    let refusal = |overrides: &[&str]| read(overrides).expect_err("no such file");
    let message = refusal(&["vars.folder=nowhere"]);
    for part in [
        format!(
            "there is no file or folder {}",
            lab.join("here/nowhere/list.json").display()
        ),
        "`nowhere/list.json` comes with `--set`, relative to the current folder".to_owned(),
    ] {
        assert!(message.contains(&part), "no {part:?} in\n{message}");
    }
    set("SPEC_PATHS_LIST", Some("gone.json"));
    let message = refusal(&[]);
    for part in [
        format!("there is no file or folder {}", lab.join("here/gone.json").display()),
        "`gone.json` comes from the environment variable `SPEC_PATHS_LIST`, relative to the current folder".to_owned(),
    ] {
        assert!(message.contains(&part), "no {part:?} in\n{message}");
    }
    set("SPEC_PATHS_LIST", None);
    fs::remove_file(default).expect("remove the default");
    let message = refusal(&[]);
    for part in [
        format!("there is no file or folder {}", default.display()),
        "the environment variable `SPEC_PATHS_LIST` is not set; `list.json` comes from its default in the spec, \
         relative to the spec's folder"
            .to_owned(),
        "help: set `SPEC_PATHS_LIST`".to_owned(),
    ] {
        assert!(message.contains(&part), "no {part:?} in\n{message}");
    }
    let message = refusal(&["vars.list=~somebody/list.json"]);
    assert!(message.contains("another user's home folder"), "{message}");
    set("HOME", None);
    let message = refusal(&["vars.list=~/list.json"]);
    assert!(message.contains("`HOME` names none"), "{message}");
}

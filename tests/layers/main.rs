//! Imports go one way: between crates as the table of crates says, between the engine's modules as their order says,
//! and nowhere in a circle. The test reads `use` lines and paths of every crate of the workspace.

mod circles;
mod imports;
mod source;
mod tables;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use circles::{circles, describe};
use imports::{Modules, Name};

/// A crate of the workspace.
struct Crate {
    name: String,
    /// Root files of its library or, without one, of its program.
    root: PathBuf,
    /// What it depends on, tests and build scripts left out.
    on: Vec<String>,
}

/// The workspace's root folder and its crates.
fn workspace() -> (PathBuf, Vec<Crate>) {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(option_env!("LAYERS_ROOT").unwrap_or(env!("CARGO_MANIFEST_DIR")))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let krate = |package: Value| {
        let targets = list(&package["targets"]);
        let of = |kind: &str| {
            targets
                .iter()
                .find(|target| list(&target["kind"]).contains(&kind.into()))
        };
        let target = of("lib").or_else(|| of("bin")).unwrap();
        let normal = |on: &&Value| on["kind"].is_null();
        let on = list(&package["dependencies"]);
        Crate {
            name: text(&package["name"]),
            root: text(&target["src_path"]).into(),
            on: on
                .iter()
                .filter(normal)
                .map(|on| text(&on["name"]))
                .collect(),
        }
    };
    let crates = list(&metadata["packages"]).into_iter().map(krate).collect();
    (text(&metadata["workspace_root"]).into(), crates)
}

fn all_modules() -> Modules {
    let (root, crates) = workspace();
    let mut modules = Modules::default();
    for krate in crates {
        let name = krate.name.replace('-', "_");
        modules.read(&name, &krate.root, &root).unwrap();
    }
    modules
}

#[test]
fn crates_depend_on_those_below_them_alone() {
    let (_, crates) = workspace();
    let names: Vec<String> = crates.iter().map(|krate| krate.name.clone()).collect();
    let wrong: Vec<String> = crates
        .iter()
        .flat_map(|krate| tables::dependencies(&krate.name, &krate.on, &names))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn modules_import_those_below_them_alone() {
    let wrong: Vec<String> = all_modules()
        .imports()
        .iter()
        .filter_map(tables::upward)
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let imports = all_modules().imports();
    assert!(
        imports.len() > 500,
        "{} imports are too few to be all",
        imports.len()
    );
    let circles: Vec<String> = circles(&imports)
        .iter()
        .map(|circle| describe(circle))
        .collect();
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

#[test]
fn the_page_on_architecture_has_both_tables() {
    let (root, _) = workspace();
    let page = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    for (name, on) in tables::CRATES {
        let row = page
            .lines()
            .find(|line| line.contains(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("the page has no row for {name}"));
        let expected = match on {
            [] => "nothing of ours".to_owned(),
            on => on
                .iter()
                .map(|on| format!("`{on}`"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let cells: Vec<&str> = row.split(" | ").collect();
        assert_eq!(cells[3], expected, "{name}");
    }
    let order: Vec<String> = tables::ENGINE
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    let words: Vec<&str> = page.split_whitespace().collect();
    assert!(
        words.join(" ").contains(&order.join(" < ")),
        "the page does not have the order {}",
        order.join(" < ")
    );
}

/// Modules of an invented crate.
fn invented(krate: &str, files: &[(&str, &str)]) -> Modules {
    let mut modules = Modules::default();
    for (path, text) in files {
        let path: Vec<String> = path
            .split("::")
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        let file = match path.is_empty() {
            true => "src/lib.rs".to_owned(),
            false => format!("src/{}.rs", path.join("/")),
        };
        let krate = krate.to_owned();
        modules
            .add(Name { krate, path }, Path::new(&file), text)
            .unwrap();
    }
    modules
}

fn found(files: &[(&str, &str)]) -> Vec<String> {
    let imports = invented("house", files).imports();
    circles(&imports)
        .iter()
        .map(|circle| describe(circle))
        .collect()
}

#[test]
fn a_circle_is_named_file_by_file() {
    let files = [
        ("", "mod a; mod b; mod c;"),
        (
            "a",
            "use crate::b::{self, B};\npub struct A(B);\nfn f() { b::go() }",
        ),
        (
            "b",
            "use std::fmt;\n\nuse super::c;\npub struct B;\npub fn go() { c::C::new(); }",
        ),
        (
            "c",
            "pub struct C;\nimpl C { pub fn new() -> crate::a::A { loop {} } }",
        ),
    ];
    assert_eq!(
        found(&files),
        [concat!(
            "a circle of 3 files:\n",
            "  src/a.rs:1 uses crate::b::B of src/b.rs\n",
            "  src/b.rs:5 uses c::C::new of src/c.rs\n",
            "  src/c.rs:2 uses crate::a::A of src/a.rs\n",
        )]
    );
}

#[test]
fn what_a_module_shows_of_those_below_it_is_taken_from_where_it_is_defined() {
    let files = [
        ("", "pub mod a;"),
        ("a", "mod one; mod two; pub use one::One; pub use two::Two;"),
        ("a::one", "pub struct One;"),
        ("a::two", "use super::One; pub struct Two(One);"),
    ];
    assert_eq!(found(&files), [""; 0]);
    // Once the module uses one of them itself, it takes part.
    let mut circle = files;
    circle[1].1 = "mod one; mod two; pub use one::One; pub use two::Two; pub struct A(Two);";
    circle[3].1 = "use super::{A, One}; pub struct Two(One, Box<A>);";
    assert_eq!(found(&circle).len(), 1);
}

#[test]
fn calls_of_macros_are_read_and_tests_are_not() {
    let mut files = [
        ("", "mod a; mod b;"),
        (
            "a",
            "pub const A: u32 = 1; #[cfg(test)] mod tests { use crate::b::b; }",
        ),
        ("b", "pub fn b() -> String { format!(\"{}\", crate::a::A) }"),
    ];
    assert_eq!(found(&files), [""; 0]);
    files[1].1 = "pub const A: u32 = 1; fn a() { println!(\"{}\", crate::b::b()) }";
    assert_eq!(found(&files).len(), 1);
}

#[test]
fn an_import_from_a_higher_layer_is_named() {
    let files = [
        ("", "pub mod key; pub mod plan;"),
        ("key", "use crate::plan::Plan;\npub fn key(_: &Plan) {}"),
        ("plan", "pub struct Plan;"),
    ];
    let imports = invented("dcsft_engine", &files).imports();
    let wrong: Vec<String> = imports.iter().filter_map(tables::upward).collect();
    assert_eq!(
        wrong,
        ["`plan` stands above `key`: src/key.rs:1 uses crate::plan::Plan of src/plan.rs"]
    );
}

#[test]
fn a_dependency_that_the_table_forbids_is_named() {
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let workspace = names(&["dcsft-cache", "dcsft-engine", "dcsft-stages"]);
    let wrong = |krate, on: &[&str]| tables::dependencies(krate, &names(on), &workspace);
    assert_eq!(wrong("dcsft-engine", &["dcsft-cache", "serde"]), [""; 0]);
    assert_eq!(
        wrong("dcsft-engine", &["dcsft-stages", "burn"]),
        [
            "dcsft-engine depends on dcsft-stages, and may depend on [dcsft-cache] alone",
            "dcsft-engine depends on burn, of which it must not know",
        ]
    );
    assert_eq!(
        wrong("dcsft-new", &[]),
        ["dcsft-new has no line in the table of crates"]
    );
}

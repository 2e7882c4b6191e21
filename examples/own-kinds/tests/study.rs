//! The program with its own kind and reward, end to end, and the page that shows it.

use std::path::Path;
use std::process::Command;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Runs the program in a folder of its own: exit code and stdout with stderr.
fn own_kinds(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_own-kinds"));
    command
        .args(args)
        .current_dir(dir)
        .env("DCSFT_CACHE", dir.join("cache"));
    let done = command.output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn the_study_runs_and_runs_from_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(
        Path::new(HERE).join("study.yaml"),
        dir.path().join("study.yaml"),
    )
    .unwrap();
    let (code, text) = own_kinds(dir.path(), &["run", "study.yaml", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = own_kinds(dir.path(), &["run", "study.yaml", "--json"]);
    assert!(
        code == Some(0) && text.contains("\"executed\":0,"),
        "{text}"
    );
    let (_, rows) = own_kinds(dir.path(), &["results", "study.yaml", "--json"]);
    assert_eq!(rows.lines().count(), 2, "{rows}");
    assert!(
        rows.contains(r#""arm":"commonest/val""#) && rows.contains(r#""metric":"accuracy""#),
        "{rows}"
    );
}

#[test]
fn the_kind_and_the_reward_are_known_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (_, kinds) = own_kinds(dir.path(), &["stages"]);
    assert!(
        kinds.contains("majority") && kinds.contains("rollout"),
        "{kinds}"
    );
    let (_, schema) = own_kinds(dir.path(), &["schema"]);
    assert!(schema.contains("\"starts_with\"") && schema.contains("\"with.majority\""));
    std::fs::write(
        dir.path().join("answers"),
        "{\"answer\": \"a cat, I think\", \"gold\": \"a cat\"}\n",
    )
    .unwrap();
    let (code, text) = own_kinds(
        dir.path(),
        &["score", "starts_with", "--answers", "answers"],
    );
    assert!(code == Some(0) && text.contains("\"reward\":1.0"), "{text}");
    let spec = "dcsft: 1\nname: s\nstages:\n  w: {uses: shapes}\n  m: {uses: majority, with: {from: \"${w}\", data: \"${w}\", reward: ends_with}}\n";
    std::fs::write(dir.path().join("spec.yaml"), spec).unwrap();
    let (code, text) = own_kinds(dir.path(), &["plan", "spec.yaml"]);
    assert!(code == Some(2) && text.contains("`starts_with`"), "{text}");
}

/// The page shows this very code.
#[test]
fn the_page_about_it_shows_what_is_compiled_here() {
    let page = std::fs::read_to_string(Path::new(HERE).join("../../docs/own-kinds.md")).unwrap();
    let mut blocks = 0;
    for (fence, files) in [
        (
            "```rust\n",
            &["src/main.rs", "src/majority.rs", "src/starts_with.rs"][..],
        ),
        ("```yaml\n", &["study.yaml"][..]),
    ] {
        let sources = files
            .iter()
            .map(|file| std::fs::read_to_string(Path::new(HERE).join(file)).unwrap());
        let sources: Vec<String> = sources.collect();
        for rest in page.split(fence).skip(1) {
            let block = rest.split("```").next().unwrap();
            blocks += 1;
            assert!(
                sources.iter().any(|source| source.contains(block)),
                "not compiled:\n{block}"
            );
        }
    }
    assert_eq!(blocks, 4);
}

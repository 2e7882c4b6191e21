//! A remote cache, in a folder and at addresses where nothing good is.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use dcsft_cache::Digest;

use crate::support::{DATA, Done, FINISHED, Lab, TINY, finish, lines};

/// Runs with a cache of its own and expects that all goes well; how many stages were executed, and what was said.
fn run(lab: &Lab, cache: &str, more: &[&str]) -> (u64, String) {
    let args = [
        "run",
        "spec.yaml",
        "--json",
        "--no-report",
        "--cache-dir",
        cache,
    ];
    let done = lab.dcsft(&[&args[..], more].concat());
    (executed(&done), done.stderr)
}

fn executed(done: &Done) -> u64 {
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    let events = lines(&done.stdout);
    let finished = events.last().expect("an event");
    finished["executed"].as_u64().expect("a number")
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

#[test]
fn a_finished_study_comes_to_another_machine_and_nothing_is_computed() {
    let (full, _) = &*FINISHED;
    let lab = Lab::new(TINY);
    let folder = lab.root().join("remote");
    let remote = folder.to_string_lossy().into_owned();
    let said = full.ok(&["cache", "push", "spec.yaml", "--remote", &remote]);
    assert!(said.contains(" there"), "{said}");
    let (executed, said) = run(&lab, "empty", &["--remote", &remote]);
    assert_eq!(executed, 0, "{said}");
    assert!(said.contains(&format!(" from {remote}, ")), "{said}");
    assert_eq!(
        lab.ok(&["lock", "spec.yaml", "--print", "--cache-dir", "empty"]),
        full.ok(&["lock", "spec.yaml", "--print"])
    );
    let verified = lab.ok(&["cache", "verify", "--cache-dir", "empty"]);
    assert!(verified.contains(" 0 damaged"), "{verified}");
}

#[test]
fn what_a_run_computes_goes_there_while_it_runs() {
    let lab = Lab::new(DATA);
    let (first, said) = run(&lab, "one", &["--remote", "remote"]);
    assert_eq!(first, 4);
    assert!(said.contains("4 results to "), "{said}");
    let (second, said) = run(&lab, "two", &["--remote", "remote"]);
    assert_eq!(second, 0);
    assert!(said.contains("4 results from "), "{said}");
    assert!(!said.contains("results to "), "{said}");
    // Another result is computed, the rest comes.
    let (third, said) = run(
        &lab,
        "three",
        &["--remote", "remote", "--force", "untrained"],
    );
    assert_eq!(third, 1);
    assert!(said.contains("4 results from "), "{said}");
    let (none, said) = run(&lab, "four", &["--remote", ""]);
    assert_eq!(none, 4);
    assert!(!said.contains("remote"), "{said}");
}

#[test]
fn push_and_pull_bring_the_results_of_a_spec() {
    let lab = Lab::new(DATA);
    let (_, said) = run(&lab, "one", &[]);
    assert!(!said.contains("result"), "{said}");
    let push = [
        "cache",
        "push",
        "spec.yaml",
        "--remote",
        "remote",
        "--cache-dir",
        "one",
    ];
    assert_eq!(lab.ok(&push), "4 of 4 results there\n");
    let again = lines(&lab.ok(&[&push[..], &["--json"]].concat()));
    assert_eq!(again[0]["there"], 4, "{again:?}");
    assert_eq!(again[0]["traffic"]["pushed"], 0, "{again:?}");
    let pull = [
        "cache",
        "pull",
        "spec.yaml",
        "--remote",
        "remote",
        "--cache-dir",
        "two",
    ];
    assert_eq!(lab.ok(&pull), "4 of 4 results here\n");
    let nothing = [
        "cache",
        "pull",
        "spec.yaml",
        "--remote",
        "none",
        "--cache-dir",
        "three",
    ];
    assert_eq!(lab.ok(&nothing), "0 of 4 results here\n");
    for command in ["push", "pull"] {
        let done = lab.dcsft(&["cache", command, "spec.yaml"]);
        assert_eq!(done.code, 2);
        assert!(done.stderr.contains("DCSFT_REMOTE"), "{}", done.stderr);
    }
}

#[test]
fn a_project_or_the_environment_names_the_remote() {
    let lab = Lab::new(DATA);
    lab.write("project/dcsft.toml", "remote = \"shared/results\"\n");
    lab.write("project/specs/spec.yaml", DATA);
    lab.ok(&["run", "project/specs/spec.yaml", "--no-report"]);
    let shared = lab.root().join("project/shared/results");
    assert!(!files(&shared).is_empty());
    let mut other = lab.command(&[
        "run",
        "spec.yaml",
        "--json",
        "--no-report",
        "--cache-dir",
        "other",
    ]);
    let done = finish(other.env("DCSFT_REMOTE", &shared));
    assert_eq!(executed(&done), 0);
    lab.write("project/dcsft.toml", "remote = \"ftp://host/x\"\n");
    let done = lab.dcsft(&["run", "project/specs/spec.yaml"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("ftp://host/x"), "{}", done.stderr);
}

#[test]
fn a_remote_with_a_changed_byte_costs_a_sentence_and_one_stage() {
    let lab = Lab::new(DATA);
    run(&lab, "one", &["--remote", "remote"]);
    let all = files(&lab.root().join("remote/v1/blobs"));
    let mut by_size: Vec<_> = all
        .iter()
        .map(|path| (path.metadata().expect("a file").len(), path))
        .collect();
    by_size.sort();
    // The weights of the model: no other result has them.
    let (_, largest) = by_size.last().expect("a file");
    let mut bytes = std::fs::read(largest).expect("a file");
    bytes[1] ^= 1;
    std::fs::write(largest, &bytes).expect("a file");
    let (executed, said) = run(&lab, "two", &["--remote", "remote"]);
    assert_eq!(executed, 1, "{said}");
    let sentence = "has not the bytes of its name; it counts as not there";
    assert_eq!(said.matches(sentence).count(), 1, "{said}");
    // It was put right by the way.
    let bytes = std::fs::read(largest).expect("a file");
    let name = largest
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert_eq!(Digest::of_bytes(&bytes).to_string(), name);
    let (executed, said) = run(&lab, "three", &["--remote", "remote"]);
    assert_eq!(executed, 0, "{said}");
}

/// A run with a bucket behind an address on this machine.
fn with_s3(lab: &Lab, port: u16) -> Command {
    let args = [
        "run",
        "spec.yaml",
        "--json",
        "--no-report",
        "--remote",
        "s3://bucket/team",
    ];
    let mut command = lab.command(&args);
    command
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
        .env("AWS_ACCESS_KEY_ID", "OPENSESAME")
        .env("AWS_SECRET_ACCESS_KEY", "hush-hush")
        .env("AWS_SESSION_TOKEN", "whisper");
    command
}

#[test]
fn a_remote_that_is_gone_costs_a_sentence_and_no_secret_is_shown() {
    let lab = Lab::new(DATA);
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let done = finish(with_s3(&lab, port).env("DCSFT_LOG", "trace"));
    assert_eq!(executed(&done), 4);
    let said = &done.stderr;
    assert!(
        said.contains("warning: s3://bucket/team is not used any more"),
        "{said}"
    );
    assert!(said.contains("Connection refused"), "{said}");
    assert!(said.contains("dcsft cache push spec.yaml"), "{said}");
    for secret in ["OPENSESAME", "hush-hush", "whisper"] {
        assert!(
            !said.contains(secret) && !done.stdout.contains(secret),
            "{said}"
        );
        for path in files(&lab.root().join("cache")) {
            let bytes = std::fs::read(&path).expect("a file");
            let found = bytes
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
    // The same as without it.
    let quiet = Lab::new(DATA);
    quiet.ok(&["run", "spec.yaml", "--no-report"]);
    let lock = ["lock", "spec.yaml", "--print"];
    assert_eq!(lab.ok(&lock), quiet.ok(&lock));
}

#[test]
fn a_remote_that_never_answers_is_waited_for_once() {
    let lab = Lab::new(DATA);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let done = finish(&mut with_s3(&lab, port));
    assert_eq!(executed(&done), 4);
    let waits = done.stderr.matches("no answer in 10 s").count();
    assert_eq!(waits, 1, "{}", done.stderr);
}

#[test]
fn credentials_in_an_address_are_refused_and_not_repeated() {
    let lab = Lab::new(DATA);
    for url in [
        "s3://ID:hush@bucket/x",
        "az://box/x?sig=hush",
        "file:///x#hush",
    ] {
        for args in [
            vec!["run", "spec.yaml"],
            vec!["cache", "push", "spec.yaml", "--json"],
        ] {
            let done = lab.dcsft(&[&args[..], &["--remote", url]].concat());
            assert_eq!(done.code, 2, "{url}");
            let said = done.stdout + &done.stderr;
            assert!(said.contains("cannot be used"), "{said}");
            assert!(!said.contains("hush"), "{said}");
        }
    }
}

//! A remote cache in a real S3 server on this machine. `.ci/s3` starts it and runs these tests, which are ignored
//! otherwise: the variables `AWS_*` lead to it, `DCSFT_S3_BUCKET` is a bucket of its own, and at `DCSFT_S3_LOCKED` is
//! a server that knows no key.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use dcsft_cache::{Depth, Digest, Json, OutputRef, Record, Remote, Store};
use tempfile::TempDir;

const SPEC: &str = "
dcsft: 1
name: data
matrix: {seed: [0, 1, 2]}
stages:
  world:
    uses: shapes
    with:
      seed: '${matrix.seed}'
      counts: {pretrain: 4, cold_start: 4, train: 12, val: 4, rendition: 4, adversarial: 4}
  untrained: {uses: model, with: {kind: micro, seed: '${matrix.seed}'}}
  answers:
    uses: rollout
    with: {model: '${untrained}', data: '${world.val}', n: 1, max_new_tokens: 2}
";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run .ci/s3"))
}

/// An address in the bucket that no other test has.
fn address(test: &str) -> String {
    format!("s3://{}/{test}", variable("DCSFT_S3_BUCKET"))
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("spec.yaml"), SPEC).expect("a spec");
    folder
}

fn dcsft(folder: &Path, cache: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dcsft"));
    command
        .args(args)
        .args(["--cache-dir", cache])
        .current_dir(folder)
        .env_remove("DCSFT_REMOTE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command to its good end; what it said on stdout and on stderr.
fn ok(command: &mut Command) -> (String, String) {
    let done = command.output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{said:?}");
    said
}

fn run(folder: &Path, cache: &str, remote: &str) -> (String, String) {
    ok(&mut dcsft(
        folder,
        cache,
        &["run", "spec.yaml", "--no-report", "--remote", remote],
    ))
}

/// Puts an object into the bucket as anybody could who may write there.
fn put(path: &str, body: &[u8]) {
    let endpoint = variable("AWS_ENDPOINT_URL");
    let host = endpoint
        .strip_prefix("http://")
        .expect("a server on this machine");
    let mut stream = TcpStream::connect(host).expect("the server");
    let (bucket, size) = (variable("DCSFT_S3_BUCKET"), body.len());
    write!(
        stream,
        "PUT /{bucket}/{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    )
    .and_then(|()| stream.write_all(body))
    .expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
#[ignore = "needs an S3 server: .ci/s3"]
fn a_study_goes_there_and_comes_back_without_executing_a_stage() {
    let folder = folder();
    let remote = address("study");
    let (_, said) = run(folder.path(), "one", &remote);
    assert!(said.contains("9 executed, 0 cached"), "{said}");
    assert!(said.contains("9 results to s3://"), "{said}");
    let (_, said) = run(folder.path(), "two", &remote);
    assert!(said.contains("0 executed, 9 cached"), "{said}");
    assert!(said.contains("9 results from s3://"), "{said}");
    let lock = |cache| {
        ok(&mut dcsft(
            folder.path(),
            cache,
            &["lock", "spec.yaml", "--print"],
        ))
        .0
    };
    assert_eq!(lock("one"), lock("two"));
}

#[test]
#[ignore = "needs an S3 server: .ci/s3"]
fn two_that_push_at_once_leave_whole_results() {
    let folder = folder();
    run(folder.path(), "one", "");
    for round in 0..5 {
        let remote = address(&format!("race-{round}"));
        let push = || {
            let args = ["cache", "push", "spec.yaml", "--remote", &remote];
            dcsft(folder.path(), "one", &args)
                .spawn()
                .expect("it starts")
        };
        for pushed in [push(), push()] {
            let done = pushed.wait_with_output().expect("it ends");
            assert!(done.status.success(), "{done:?}");
        }
        let (_, said) = run(folder.path(), &format!("after-{round}"), &remote);
        assert!(said.contains("0 executed, 9 cached"), "{said}");
        assert!(!said.contains("warning"), "{said}");
    }
}

#[test]
#[ignore = "needs an S3 server: .ci/s3"]
fn large_files_go_in_parts_and_what_is_changed_there_is_not_taken() {
    const SIZE: usize = 30 << 20;
    let folder = tempfile::tempdir().expect("a folder");
    let store = |name: &str| Store::open(&folder.path().join(name)).expect("a store");
    let bytes: Vec<u8> = (0..SIZE).map(|index| (index / 1000) as u8).collect();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).expect("a folder");
    std::fs::write(out.join("large"), &bytes).expect("a file");
    let full = store("full");
    let artifact = full.publish(&out).expect("an artifact");
    let key = Digest::of_bytes(b"large");
    let record = Record {
        format: Record::FORMAT,
        key,
        label: "large".to_owned(),
        explain: Json::of(&1),
        outputs: [("out".to_owned(), OutputRef::from(&artifact))].into(),
        summary: serde_json::Value::Null,
        execution: Json::of(&1),
        created_unix: 1,
    };
    full.commit(&record).expect("a record");
    let address = address("large");
    let remote = Remote::open(&address).expect("a remote");
    assert_eq!(full.push(&remote, &[key], Depth::Objects), 1);
    assert_eq!(remote.traffic().bytes_up, SIZE as u64);
    let came = store("came");
    came.pull(&remote, &[key]);
    assert_eq!(came.lookup_verified(&key).expect("a look-up"), Some(record));

    let name = Digest::of_bytes(&bytes).to_string();
    let mut lie = bytes.clone();
    lie[SIZE / 2] ^= 1;
    let path = format!("large/v1/blobs/{}/{name}", &name[..2]);
    for lie in [lie, bytes[1..].to_vec(), Vec::new()] {
        put(&path, &lie);
        let empty = store("empty");
        let remote = Remote::open(&address).expect("a remote");
        empty.pull(&remote, &[key]);
        assert!(empty.lookup(&key).expect("a look-up").is_none());
        assert_eq!(empty.usage().expect("numbers").blobs, 0);
        let troubles = remote.take_troubles();
        assert!(
            troubles[0].contains("has not the bytes of its name"),
            "{troubles:?}"
        );
        // Whoever found it wrong puts it right.
        assert_eq!(full.push(&remote, &[key], Depth::Record), 1);
        let again = Remote::open(&address).expect("a remote");
        let came = store(&format!("came-{}", lie.len()));
        came.pull(&again, &[key]);
        assert!(came.lookup_verified(&key).expect("a look-up").is_some());
    }
}

#[test]
#[ignore = "needs an S3 server: .ci/s3"]
fn a_bucket_that_is_not_there_and_a_key_that_is_not_known_cost_a_sentence() {
    let folder = folder();
    let (_, said) = run(folder.path(), "one", "s3://nobody-has-made-this/x");
    assert!(said.contains("9 executed"), "{said}");
    assert!(said.contains("NoSuchBucket"), "{said}");
    let bucket = address("refused");
    let mut command = dcsft(
        folder.path(),
        "two",
        &["run", "spec.yaml", "--no-report", "--remote", &bucket],
    );
    command
        .env("AWS_ENDPOINT_URL", variable("DCSFT_S3_LOCKED"))
        .env("AWS_ACCESS_KEY_ID", "OPENSESAME")
        .env("AWS_SECRET_ACCESS_KEY", "hush-hush");
    let (_, said) = ok(&mut command);
    assert!(said.contains("9 executed"), "{said}");
    assert!(said.contains("warning: s3://"), "{said}");
    assert!(
        !said.contains("OPENSESAME") && !said.contains("hush-hush"),
        "{said}"
    );
}

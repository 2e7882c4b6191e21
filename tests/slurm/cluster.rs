//! The cluster, and a folder with a spec whose stages are its jobs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Two seeds of everything but one stage, which takes a while and saves its state.
pub(crate) const SMALL: &str = r#"
dcsft: 1
name: small
matrix: {seed: [0, 1]}
stages:
  world:
    uses: shapes
    with:
      seed: "${matrix.seed}"
      counts: {pretrain: 64, cold_start: 16, train: 64, val: 16, rendition: 0, adversarial: 0}
  untrained: {uses: model, with: {kind: micro, seed: "${matrix.seed}"}}
  base:
    uses: sft
    with: {model: "${untrained}", data: "${world.cold_start}", steps: 2, batch_size: 4, learning_rate: 1e-3}
  slow:
    uses: sft
    with: {model: "${base[seed=0]}", data: "${world[seed=0].train}", steps: 600, batch_size: 16, learning_rate: 1e-3}
  eval:
    uses: eval
    with: {model: "${base}", data: "${world.val}", max_new_tokens: 4}
"#;

const RUN: [&str; 6] = [
    "run",
    "spec.yaml",
    "--executor",
    "slurm",
    "--json",
    "--no-report",
];

const PATIENCE: Duration = Duration::from_secs(180);

/// The cluster, for one test at a time.
pub(crate) struct Cluster {
    _turn: MutexGuard<'static, ()>,
    folder: String,
    control: String,
}

impl Cluster {
    /// Waits until no other test has it.
    pub(crate) fn get() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let set = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
        let cluster = Self {
            _turn: turn,
            folder: set("DCSFT_SLURM"),
            control: set("DCSFT_SLURM_CONTROL"),
        };
        let _ = Command::new("scancel").arg("--user=root").output();
        cluster
    }

    fn control(&self, args: &[&str]) {
        let mut command = Command::new("bash");
        command.arg(&self.control).arg(args[0]).arg(&self.folder);
        let done = command
            .args(&args[1..])
            .output()
            .expect("the control script");
        assert!(
            done.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    fn squeue(&self, format: &str) -> Vec<String> {
        let done = Command::new("squeue")
            .args(["--noheader", "--array", &format!("--format={format}")])
            .output()
            .expect("squeue");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        text.lines().map(str::to_owned).collect()
    }

    /// The states of the jobs whose names contain `part`.
    pub(crate) fn jobs(&self, part: &str) -> Vec<String> {
        let lines = self.squeue("%j|%T");
        let ours = lines.iter().filter(|line| line.contains(part));
        ours.filter_map(|line| line.split('|').nth(1).map(str::to_owned))
            .collect()
    }

    pub(crate) fn wait_for_job(&self, part: &str, state: &str) {
        until(|| self.jobs(part).iter().any(|found| found == state));
        // Until its worker works.
        std::thread::sleep(Duration::from_secs(2));
    }

    pub(crate) fn wait_until_gone(&self, part: &str) {
        until(|| self.jobs(part).iter().all(|state| state == "COMPLETED"));
    }

    fn field(&self, part: &str, format: &str) -> String {
        let mut found = None;
        until(|| {
            let lines = self.squeue(&format!("%j|%T|{format}"));
            let line = lines
                .iter()
                .find(|line| line.contains(part) && line.contains("|RUNNING|"));
            found = line.and_then(|line| line.split('|').nth(2).map(str::to_owned));
            found.is_some()
        });
        found.unwrap_or_default()
    }

    /// The node that runs the job.
    pub(crate) fn node_of(&self, part: &str) -> String {
        self.field(part, "%N")
    }

    /// Ends a node with all that runs there, and has the controller notice at once.
    pub(crate) fn lose(&self, node: &str) {
        self.control(&["kill-node", node]);
        self.scontrol(&[
            "update",
            &format!("nodename={node}"),
            "state=down",
            "reason=lost",
        ]);
    }

    pub(crate) fn bring_back(&self, node: &str) {
        self.control(&["start-node", node]);
        std::thread::sleep(Duration::from_secs(1));
        self.scontrol(&["update", &format!("nodename={node}"), "state=resume"]);
    }

    pub(crate) fn stop_controller(&self) {
        self.control(&["kill-ctld"]);
    }

    pub(crate) fn start_controller(&self) {
        self.control(&["start-ctld"]);
    }

    /// Lets the job run into its time limit.
    pub(crate) fn end_soon(&self, part: &str) {
        let job = self.field(part, "%A");
        self.scontrol(&["update", &format!("jobid={job}"), "EndTime=now+2"]);
    }

    pub(crate) fn cancel(&self, part: &str) {
        let job = self.field(part, "%A");
        let done = Command::new("scancel").arg(job).status().expect("scancel");
        assert!(done.success());
    }

    fn scontrol(&self, args: &[&str]) {
        let done = Command::new("scontrol").args(args).output();
        let done = done.expect("scontrol");
        // A node that registers by itself needs no word.
        if !done.status.success() {
            eprintln!(
                "scontrol {args:?}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
    }
}

fn until(mut test: impl FnMut() -> bool) {
    let began = Instant::now();
    while !test() {
        assert!(began.elapsed() < PATIENCE, "it does not happen");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A folder with a spec, a cache, and the word that stages are jobs.
pub(crate) struct Lab {
    folder: TempDir,
}

impl Lab {
    pub(crate) fn new(spec: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("spec.yaml"), spec).expect("write the spec");
        std::fs::write(folder.path().join("dcsft.toml"), "[slurm]\npoll = \"1s\"\n")
            .expect("write the project's file");
        Self { folder }
    }

    /// Its spec.
    pub(crate) fn spec(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("spec.yaml")).expect("its spec")
    }

    fn command(&self, args: &[&str]) -> Command {
        self.command_of(Command::new(env!("CARGO_BIN_EXE_dcsft")), args)
    }

    fn command_of(&self, mut command: Command, args: &[&str]) -> Command {
        command
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .env("DCSFT_CACHE", self.cache());
        command
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Runs a command that must succeed, and gives what it prints.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let done = self.command(args).output().expect("the binary starts");
        assert!(
            done.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// Runs a command; its exit code and what it says on stderr.
    pub(crate) fn run_command(&self, args: &[&str]) -> (Option<i32>, String) {
        let done = self.command(args).output().expect("the binary starts");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), said)
    }

    /// Starts a run on the cluster.
    pub(crate) fn start(&self) -> Running {
        Self::started(self.command(&RUN))
    }

    /// The same on a host of another name, where other processes are seen.
    pub(crate) fn start_on(&self, host: &str) -> Running {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--uts", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", "hostname \"$0\" && exec \"$@\"", host])
            .arg(env!("CARGO_BIN_EXE_dcsft"));
        Self::started(self.command_of(unshare, &RUN))
    }

    fn started(mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("its stdout")).lines();
        Running { child, lines }
    }

    /// A run on the cluster that must succeed; its events.
    pub(crate) fn run_to_end(&self) -> Vec<Value> {
        let (code, events) = self.start().end();
        assert_eq!(code, Some(0), "{events:?}");
        events
    }

    /// The arrays that were submitted, each with its number of tasks.
    pub(crate) fn arrays(&self) -> BTreeMap<String, usize> {
        let entries = std::fs::read_dir(self.cache().join("v1/jobs")).expect("the jobs' folder");
        let lists = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = name.strip_suffix(".list")?.to_owned();
            let tasks = std::fs::read_to_string(entry.path()).ok()?.lines().count();
            Some((name, tasks))
        });
        lists.collect()
    }
}

/// A run that goes on.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// The next event that is meant.
    pub(crate) fn wait_for(&mut self, is_meant: impl Fn(&Value) -> bool) -> Value {
        let mut events = Vec::new();
        for line in self.lines.by_ref() {
            let event: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
            if is_meant(&event) {
                return event;
            }
            events.push(event);
        }
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().expect("its stderr");
        let _ = stderr.read_to_string(&mut said);
        panic!("the run ended before that: {events:?}\n{said}")
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is killed");
        let _ = self.child.wait();
    }

    /// As Ctrl-C does; the exit code and what it says.
    pub(crate) fn interrupt(mut self) -> (Option<i32>, String) {
        let sent = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status()
            .expect("kill");
        assert!(sent.success());
        self.lines.by_ref().for_each(drop);
        let done = self.child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), said)
    }

    /// Its exit code and the events that are left.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let lines = self.lines.by_ref().map_while(Result::ok);
        let events = lines
            .map(|line| serde_json::from_str(&line).expect("JSON"))
            .collect();
        (self.child.wait().expect("it ends").code(), events)
    }
}

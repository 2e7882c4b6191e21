//! A folder with specs, and the binary run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

/// The whole pipeline at its smallest: sets of a few dozen images, a few steps, bins by quantiles so that none is
/// empty whatever the model answers.
pub(crate) const TINY: &str = r#"
dcsft: 1
name: tiny
matrix: {seed: [0, 1]}
vars: {steps: 4}
stages:
  world:
    uses: shapes
    with:
      seed: "${matrix.seed}"
      counts: {pretrain: 8, cold_start: 32, train: 24, val: 20, rendition: 20, adversarial: 20}
  untrained: {uses: model, with: {kind: micro, seed: "${matrix.seed}"}}
  cold_start:
    uses: sft
    with: {model: "${untrained}", data: "${world.cold_start}", steps: 3, batch_size: 8, learning_rate: 1e-3}
  rollouts:
    uses: rollout
    with: {model: "${cold_start}", data: "${world.train}", n: 2, max_new_tokens: 4, seed: "${matrix.seed}"}
  difficulty:
    uses: difficulty
    with:
      rollouts: "${rollouts}"
      data: "${world.train}"
      quantiles: {edges: [0.4, 0.8], names: [easy, medium, hard]}
      unions: [[easy, medium]]
  sft:
    uses: sft
    matrix: {subset: [all, hard, easy+medium]}
    with:
      model: "${cold_start}"
      data: "${difficulty.${matrix.subset}}"
      lora: {rank: 2, alpha: 4, targets: [decoder]}
      steps: "${vars.steps}"
      save_steps: 2
      batch_size: 4
      learning_rate: 1e-3
  grpo:
    uses: grpo
    with:
      model: "${cold_start}"
      data: "${difficulty.all}"
      difficulty: "${difficulty.scores}"
      lora: {rank: 2, alpha: 4, targets: [decoder]}
      steps: "${vars.steps}"
      save_steps: 2
      prompts_per_step: 2
      generations: 2
      max_new_tokens: 4
      learning_rate: 1e-3
  eval_cold_start:
    uses: eval
    matrix: {set: [val, rendition, adversarial]}
    with: {model: "${cold_start}", data: "${world.${matrix.set}}", max_new_tokens: 8}
  eval_sft:
    uses: eval
    matrix: {step: [2, 4], set: [val, rendition, adversarial]}
    with: {model: "${sft.step-${matrix.step}}", data: "${world.${matrix.set}}", max_new_tokens: 8}
  eval_grpo:
    uses: eval
    matrix: {step: [2, 4], set: [val, rendition, adversarial]}
    with: {model: "${grpo.step-${matrix.step}}", data: "${world.${matrix.set}}", max_new_tokens: 8}
  report:
    uses: report
    with:
      evals: ["${eval_cold_start[*]}", "${eval_sft[*]}", "${eval_grpo[*]}"]
      logs: ["${sft[*].log}", "${grpo[*].log}"]
      rollouts: ["${rollouts[*]}"]
      difficulty: ["${difficulty[*].scores}"]
      data: ["${world[*].train}"]
"#;

/// Data stages alone: done in a blink.
pub(crate) const DATA: &str = r#"
dcsft: 1
name: data
vars: {train: 12}
matrix: {seed: [0, 1, 2]}
stages:
  world:
    uses: shapes
    with:
      seed: "${matrix.seed}"
      counts: {pretrain: 4, cold_start: 4, train: "${vars.train}", val: 4, rendition: 4, adversarial: 4}
  untrained: {uses: model, with: {kind: micro}}
"#;

/// A folder of its own for each test.
pub(crate) struct Lab {
    root: PathBuf,
    _temporary: Option<TempDir>,
}

/// What the binary gave back.
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Lab {
    /// A folder with `spec.yaml`.
    pub(crate) fn new(spec: &str) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let lab = Self {
            root: temporary.path().to_owned(),
            _temporary: Some(temporary),
        };
        lab.write("spec.yaml", spec);
        lab
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.root.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("create a folder");
        std::fs::write(path, text).expect("write a file");
    }

    /// The binary, in the folder, with a cache of its own and an environment of its own.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dcsft"));
        command
            .args(args)
            .current_dir(&self.root)
            .stdin(Stdio::null());
        for name in ["DCSFT_DEVICE", "DCSFT_LOG", "DCSFT_REMOTE", "NO_COLOR"] {
            command.env_remove(name);
        }
        command.env("DCSFT_CACHE", self.root.join("cache"));
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn dcsft(&self, args: &[&str]) -> Done {
        finish(&mut self.command(args))
    }

    /// Runs the binary and expects exit code 0.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let done = self.dcsft(args);
        assert_eq!(
            done.code,
            0,
            "dcsft {}\n{}\n{}",
            args.join(" "),
            done.stdout,
            done.stderr
        );
        done.stdout
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Done {
    let output = command.output().expect("the binary starts");
    Done {
        code: output.status.code().expect("it ends by itself"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// The objects of JSON lines.
pub(crate) fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The tiny study, run once for all tests that only look at it.
pub(crate) static FINISHED: LazyLock<(Lab, Vec<Value>)> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("finished");
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(&root).expect("create a folder");
    let lab = Lab {
        root,
        _temporary: None,
    };
    lab.write("spec.yaml", TINY);
    let events = lines(&lab.ok(&["run", "spec.yaml", "--json"]));
    (lab, events)
});

//! What a spec says of a command, and what of it enters the key.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::environment;
use super::files;
use crate::stage::{ArtifactType, OutputDecl, ParamProblem};
use crate::text::plain;

/// What an output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OutputType {
    /// Samples with images.
    Dataset,
    /// A model that can answer.
    Model,
    /// Sampled answers with rewards.
    Rollouts,
    /// Numbers for the results table.
    Metrics,
    /// Files that only programs of your own read.
    Files,
}

impl OutputType {
    fn artifact(self) -> ArtifactType {
        match self {
            Self::Dataset => ArtifactType::Dataset,
            Self::Model => ArtifactType::Model,
            Self::Rollouts => ArtifactType::Rollouts,
            Self::Metrics => ArtifactType::Metrics,
            Self::Files => ArtifactType::Files,
        }
    }
}

/// A text, or what stands for one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Word {
    /// A text.
    Text(String),
    /// A number, as it is written in JSON.
    Number(serde_json::Number),
    /// `true` or `false`.
    Truth(bool),
}

impl Word {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => plain(&Value::Number(number)),
            Self::Truth(truth) => truth.to_string(),
        }
    }
}

/// `with:` as a spec says it, without the inputs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CommandParams {
    /// The program and its arguments; no shell reads them. `${inputs.NAME}` and `${outputs.NAME}` are folders, filled in
    /// when the stage runs.
    argv: Vec<Word>,
    /// A script for `sh -eu`, in place of `argv`. For the shell's own `${...}` write `$NAME` or `$${...}`.
    shell: Option<String>,
    /// What the program writes: the type of each output by name. The first is the default one.
    #[schemars(with = "BTreeMap<String, OutputType>")]
    outputs: Map<String, Value>,
    /// The program's own files, such as its script; it finds copies in its working folder. What is in them is part of the
    /// key. Of a folder all files are taken.
    files: Vec<String>,
    /// Variables of the environment that the program sees: `NAME` takes the value that it has here, `NAME=VALUE` sets it.
    /// Names and values are part of the key.
    env: Vec<String>,
    /// Names of variables that the program sees too and whose values make no difference to what it writes: tokens, folders
    /// of caches. Values are not part of the key.
    pass_env: Vec<String>,
    /// Exit codes that mean that all is well.
    ok_exit_codes: Vec<u8>,
    /// Change it when the program gives something else though nothing here has changed.
    version: Option<Word>,
}

impl Default for CommandParams {
    fn default() -> Self {
        Self {
            argv: Vec::new(),
            shell: None,
            outputs: Map::new(),
            files: Vec::new(),
            env: Vec::new(),
            pass_env: Vec::new(),
            ok_exit_codes: vec![0],
            version: None,
        }
    }
}

/// A command as the key and the worker know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Program {
    /// The program and its arguments, as written.
    pub(super) argv: Option<Vec<String>>,
    /// Or a script.
    pub(super) shell: Option<String>,
    outputs: Map<String, Value>,
    /// Where the user's files are, by where the program finds them.
    pub(super) files: BTreeMap<String, String>,
    /// Declared variables; those without a value were not set.
    pub(super) env: BTreeMap<String, Option<String>>,
    /// Variables that pass through.
    pub(super) pass_env: BTreeSet<String>,
    /// Exit codes that mean that all is well.
    pub(super) ok_exit_codes: BTreeSet<u8>,
    version: Option<String>,
}

impl Program {
    /// Checks `params` and reads the environment.
    ///
    /// # Errors
    /// Every mistake.
    pub(super) fn of(params: CommandParams) -> Result<Self, Vec<ParamProblem>> {
        let mut problems = Vec::new();
        let argv: Vec<String> = params.argv.into_iter().map(Word::text).collect();
        match (argv.is_empty(), &params.shell) {
            (true, None) => problems.push(ParamProblem::new(
                "",
                "needs `argv: [PROGRAM, ARGUMENT, ...]` or `shell: \"...\"`",
            )),
            (false, Some(_)) => problems.push(ParamProblem::new(
                "shell",
                "a command has `argv` or `shell`, not both",
            )),
            _ => {}
        }
        if argv
            .first()
            .is_some_and(|program| program.trim().is_empty())
        {
            problems.push(ParamProblem::new("argv.0", "names no program"));
        }
        if params
            .shell
            .as_ref()
            .is_some_and(|script| script.trim().is_empty())
        {
            problems.push(ParamProblem::new("shell", "is empty"));
        }
        problems.extend(output_problems(&params.outputs));
        if params.ok_exit_codes.is_empty() {
            problems.push(ParamProblem::new(
                "ok_exit_codes",
                "names none: no end would be a good one",
            ));
        }
        let take = |problems: &mut Vec<ParamProblem>, found: Result<_, ParamProblem>| {
            found.map_err(|problem| problems.push(problem)).ok()
        };
        let files = files::placed(&params.files);
        let files = take(&mut problems, files).unwrap_or_default();
        let env = environment::declared(&params.env, &mut problems);
        let pass_env = environment::passed(&params.pass_env, &env, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            argv: (!argv.is_empty()).then_some(argv),
            shell: params.shell,
            outputs: params.outputs,
            files,
            env,
            pass_env,
            ok_exit_codes: params.ok_exit_codes.into_iter().collect(),
            version: params.version.map(Word::text),
        })
    }

    /// The outputs, default first.
    pub(super) fn outputs(&self) -> Vec<OutputDecl> {
        let declared = self.outputs.iter().filter_map(|(name, kind)| {
            let kind = OutputType::deserialize(kind).ok()?;
            Some(OutputDecl::new(name, kind.artifact()))
        });
        declared.collect()
    }

    /// The command for people: the program and its first arguments.
    pub(super) fn title(&self) -> String {
        match (&self.argv, &self.shell) {
            (Some(argv), _) => argv.iter().take(3).cloned().collect::<Vec<_>>().join(" "),
            (None, Some(script)) => {
                let line = script.lines().map(str::trim).find(|line| !line.is_empty());
                line.unwrap_or_default().to_owned()
            }
            (None, None) => String::new(),
        }
    }
}

fn output_problems(outputs: &Map<String, Value>) -> Vec<ParamProblem> {
    let mut problems = Vec::new();
    if outputs.is_empty() {
        problems.push(ParamProblem::new(
            "outputs",
            "a command has at least one output: `outputs: {NAME: TYPE}`, where TYPE is `dataset`, `model`, `rollouts`, `metrics` or `files`",
        ));
    }
    for (name, kind) in outputs {
        let field = vec!["outputs".to_owned(), name.clone()];
        if !environment::is_name(name) {
            let message = format!(
                "`{name}` cannot name an output: a name is a letter or `_`, then letters, digits and `_`"
            );
            problems.push(ParamProblem::new(field, message));
        } else if OutputType::deserialize(kind).is_err() {
            let message = "is `dataset`, `model`, `rollouts`, `metrics` or `files`";
            problems.push(ParamProblem::new(field, message));
        }
    }
    problems
}

//! Any program as a stage: `uses: command`.
//!
//! | module | what |
//! |---|---|
//! | `params` | what a spec says, and what enters the key |
//! | `files` | the user's files that the program is given, and where they lie for it |
//! | `fill` | `${inputs.NAME}` and `${outputs.NAME}` |
//! | `environment` | the variables that the program sees |
//! | `program` | the process, from its start to the end of whatever it leaves behind |
//! | `heard` | what it says while it runs |
//! | `inputs` | whether it has left its inputs alone |
//! | `filter` | a program that answers lines with lines |
//! | [`metrics`] | what an output with metrics holds |
//!
//! The engine knows nothing of what models, datasets and rollouts look like: whoever registers the kind says how a
//! folder is checked that claims to be one.

mod environment;
mod files;
mod fill;
mod filter;
mod heard;
mod inputs;
pub mod metrics;
mod params;
mod program;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::stage::{
    ArtifactType, Cardinality, InputDecl, Kind, KindDecl, OutputDecl, ParamProblem, Params,
    ResolvedParams, StageContext, StageError, parse,
};
use fill::Places;
pub use filter::{Env, Files, Filter, FilterError, FilterProgram};
use params::{CommandParams, Program};

/// What whoever registers the kind knows of artifacts.
pub trait Layouts: Send + Sync + 'static {
    /// Says what is wrong with a folder that is to be an artifact of this type.
    ///
    /// # Errors
    /// The file, and what it lacks.
    fn check(&self, artifact: ArtifactType, dir: &Path) -> Result<(), String>;

    /// Why the artifact in `dir` was skipped, if it was.
    fn skipped(&self, _dir: &Path) -> Option<String> {
        None
    }

    /// Makes the artifact in the empty folder `dir` a skipped one.
    ///
    /// # Errors
    /// If that cannot be written.
    fn skip(&self, _dir: &Path, _because: &str) -> Result<(), StageError> {
        Ok(())
    }
}

/// The field of `with:` that names the inputs.
const INPUTS: InputDecl = InputDecl {
    name: "inputs",
    cardinality: Cardinality::Many,
    accepts: ArtifactType::ALL,
    doc: "What the program reads, by names of your choice: `${inputs.NAME}` is the folder of the artifact.",
};

/// The stage kind.
pub struct Command {
    layouts: Box<dyn Layouts>,
}

impl Command {
    /// The kind, whose typed outputs are checked by `layouts`.
    pub fn new(layouts: impl Layouts) -> Self {
        Self {
            layouts: Box::new(layouts),
        }
    }
}

impl Kind for Command {
    fn decl(&self) -> KindDecl {
        KindDecl {
            name: "command",
            version: 1,
            summary: "Any program: declared inputs, outputs, files and environment",
            inputs: &[],
            numeric: false,
            labelled: false,
            shardable: false,
            paths: &[&["files"]],
        }
    }

    fn open_inputs(&self) -> Option<&'static InputDecl> {
        Some(&INPUTS)
    }

    fn schema(&self) -> schemars::Schema {
        let mut schema = schemars::schema_for!(CommandParams);
        let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
        if let Some(fields) = fields {
            let one = json!({"type": "string", "pattern": "^\\$\\{.+\\}$"});
            let many = json!({"type": "array", "items": one});
            let map = json!({
                "type": ["object", "null"],
                "description": INPUTS.doc,
                "additionalProperties": {"anyOf": [one, many]},
            });
            fields.insert(INPUTS.name.to_owned(), map);
        }
        schema
    }

    fn resolve(&self, with: &Value, root: &Path) -> Result<ResolvedParams, Vec<ParamProblem>> {
        let params: CommandParams = parse(with).map_err(|problem| vec![problem])?;
        let program = Program::of(params)?;
        let value = serde_json::to_value(&program)
            .map_err(|error| vec![ParamProblem::new("", error.to_string())])?;
        Ok(ResolvedParams {
            params: Params::of(&value),
            outputs: program.outputs(),
            files: files::named(&program.files, &"files".into(), root)
                .map_err(|problem| vec![problem])?,
        })
    }

    fn run(&self, params: &Value, ctx: &mut StageContext) -> Result<(), StageError> {
        let program: Program = parse(params).map_err(|problem| {
            StageError::failed(format!("{}: {}", problem.path, problem.message))
        })?;
        let outputs = program.outputs();
        if let Some(because) = self.leave_out_skipped(ctx) {
            for output in &outputs {
                self.layouts.skip(&ctx.output(&output.name)?, &because)?;
            }
            ctx.skip(because);
            return Ok(());
        }
        let work = empty_folder(ctx, "work")?;
        files::place(&program.files, Path::new(""), &work)?;
        let mut places = Places::default();
        for (name, artifacts) in ctx.all_inputs() {
            let name = name.strip_prefix("inputs.").unwrap_or(name).to_owned();
            let dirs = artifacts.iter().map(|input| input.dir.clone()).collect();
            places.inputs.insert(name, dirs);
        }
        for output in &outputs {
            let dir = ctx.output(&output.name)?;
            places.outputs.insert(output.name.clone(), dir);
        }
        let before = inputs::Seen::of(&places.inputs)?;
        program::run(&program, &places, &work, ctx)?;
        before.compare(&places.inputs)?;
        self.check_outputs(&outputs, ctx)?;
        // What the program leaves in its working folder is nobody's.
        let _ = fs::remove_dir_all(&work);
        Ok(())
    }
}

impl Command {
    /// Leaves skipped artifacts out of the inputs, and says so; why the stage has to be skipped, if an input has no other.
    fn leave_out_skipped(&self, ctx: &mut StageContext) -> Option<String> {
        let mut told = Vec::new();
        let mut whole = None;
        for (name, artifacts) in ctx.all_inputs() {
            let skipped = artifacts
                .iter()
                .map(|input| self.layouts.skipped(&input.dir));
            let skipped: Vec<String> = skipped.flatten().collect();
            let Some(because) = skipped.first() else {
                continue;
            };
            if skipped.len() == artifacts.len() {
                whole = Some(because.clone());
            }
            let count = skipped.len();
            told.push(format!(
                "{count} of {} artifacts of `{name}` were skipped: {because}",
                artifacts.len()
            ));
        }
        if whole.is_none() {
            ctx.retain_inputs(|input| self.layouts.skipped(&input.dir).is_none());
            told.into_iter().for_each(|sentence| ctx.warn(sentence));
        }
        whole
    }

    /// Checks what the program wrote, and reports its metrics.
    fn check_outputs(
        &self,
        outputs: &[OutputDecl],
        ctx: &mut StageContext,
    ) -> Result<(), StageError> {
        refuse_undeclared(outputs, ctx.outputs())?;
        let mut results = None;
        for output in outputs {
            let dir = ctx.output(&output.name)?;
            if is_empty(&dir)? {
                return Err(StageError::failed(format!(
                    "the program ended well and wrote nothing to its output `{0}`: \
                     it belongs into the folder `${{outputs.{0}}}`, which is also in $DCSFT_OUTPUT_{0}",
                    output.name
                )));
            }
            let wrong = |message: String| {
                StageError::failed(format!(
                    "the output `{}` is not what it is declared to be: {message}",
                    output.name
                ))
            };
            if output.artifact == ArtifactType::Metrics {
                let found = metrics::read(&dir).map_err(|error| wrong(error.to_string()))?;
                results.get_or_insert_with(Vec::new).extend(found);
            } else {
                self.layouts.check(output.artifact, &dir).map_err(wrong)?;
            }
        }
        if let Some(results) = results {
            metrics::refuse_repeats(&results).map_err(StageError::failed)?;
            ctx.report(results);
        }
        Ok(())
    }
}

/// A folder of this attempt's own, below the one for state.
fn empty_folder(ctx: &StageContext, name: &str) -> Result<PathBuf, StageError> {
    let dir = ctx.state().join(name);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StageError::io(&dir)(error));
        }
        _ => {}
    }
    fs::create_dir_all(&dir).map_err(StageError::io(&dir))?;
    Ok(dir)
}

/// Refuses what lies beside the outputs' folders: it would be lost.
fn refuse_undeclared(outputs: &[OutputDecl], folder: &Path) -> Result<(), StageError> {
    for entry in fs::read_dir(folder).map_err(StageError::io(folder))? {
        let name = entry.map_err(StageError::io(folder))?.file_name();
        if outputs.iter().any(|output| *output.name == *name) {
            continue;
        }
        let names: Vec<String> = outputs
            .iter()
            .map(|output| format!("`{}`", output.name))
            .collect();
        return Err(StageError::failed(format!(
            "the program wrote `{}` beside its outputs {}: declare it below `outputs:`, or write it into one of them",
            name.to_string_lossy(),
            names.join(", ")
        )));
    }
    Ok(())
}

fn is_empty(dir: &Path) -> Result<bool, StageError> {
    let mut entries = fs::read_dir(dir).map_err(StageError::io(dir))?;
    Ok(entries.next().is_none())
}

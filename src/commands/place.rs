//! Where stages run: on this machine, or as jobs of a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dcsft_cache::Store;
use dcsft_engine::run::slurm::SlurmExecutor;
use dcsft_engine::run::{self, Executor, LocalExecutor, WorkerCommand};

use crate::cli::{ExecutorName, Run};
use crate::exit::Failure;
use crate::kernels::Kernels;
use crate::project_file::ProjectFile;

/// What runs the stages of a run, as the command line says, or else the project's file.
///
/// # Errors
/// A wrong file; a cluster whose commands are not there.
pub(crate) fn executor(
    args: &Run,
    store: &Store,
    kernels: &Kernels,
) -> Result<Box<dyn Executor>, Failure> {
    let file = ProjectFile::of(&args.spec.spec)?;
    let mut worker = worker_command()?;
    match args.executor.or(file.executor).unwrap_or_default() {
        ExecutorName::Local => {
            worker.env.extend(kernels.variable());
            let grace = run::GRACE;
            Ok(Box::new(LocalExecutor { worker, grace }))
        }
        ExecutorName::Slurm => {
            let program = frozen(&worker.program, store)?;
            let folder = store.jobs_dir();
            let executor = SlurmExecutor::new(&program, &worker.env, folder, file.slurm()?);
            let executor = executor.map_err(|error| {
                Failure::failed(error).help("`--executor local` runs the stages here")
            })?;
            Ok(Box::new(executor))
        }
    }
}

/// A copy of the binary in the cache, which all machines see and which no build replaces while jobs wait.
fn frozen(program: &Path, store: &Store) -> Result<PathBuf, Failure> {
    // It is hashed once, however many runs there are.
    let digests = store.digest_files(&[program.to_owned()], false)?;
    let digest = digests.first().copied().flatten().ok_or_else(|| {
        Failure::failed(format!(
            "there is no {}, which is to run",
            program.display()
        ))
    })?;
    let folder = store.jobs_dir();
    let copy = folder.join(format!("dcsft-{}", &digest.to_string()[..16]));
    let used = fs::File::open(&copy).and_then(|file| file.set_modified(SystemTime::now()));
    if used.is_ok() {
        // So collection sees that it is needed.
        return Ok(copy);
    }
    let fresh = folder.join(format!(".new-{}", std::process::id()));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::copy(program, &fresh))
        .and_then(|_| fs::rename(&fresh, &copy))
        .map_err(Failure::write(&copy))?;
    Ok(copy)
}

/// Workers keep freed memory: a training step allocates what the last one has freed, and giving the pages back and
/// taking them again would be a tenth of its time. Whoever sets the variable is not overruled.
fn allocator() -> Vec<(String, String)> {
    const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";
    match std::env::var_os(VARIABLE) {
        Some(_) => Vec::new(),
        None => vec![(VARIABLE.to_owned(), "-1".to_owned())],
    }
}

fn worker_command() -> Result<WorkerCommand, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::failed(format!(
            "cannot find the path of this program, which stages run in: {error}"
        ))
    })?;
    let worker = WorkerCommand {
        program,
        args: vec!["worker".to_owned()],
        env: allocator(),
    };
    Ok(match std::env::var(RUNNER) {
        Ok(runner) => started_by(worker, &runner),
        Err(_) => worker,
    })
}

/// The variable with a program that workers are started by, such as an emulator of another processor; words are apart
/// by blanks.
const RUNNER: &str = "DCSFT_RUNNER";

fn started_by(worker: WorkerCommand, runner: &str) -> WorkerCommand {
    let mut words = runner.split_whitespace();
    let Some(program) = words.next() else {
        return worker;
    };
    let own = worker.program.to_string_lossy().into_owned();
    WorkerCommand {
        program: program.into(),
        args: words
            .map(str::to_owned)
            .chain([own])
            .chain(worker.args)
            .collect(),
        env: worker.env,
    }
}

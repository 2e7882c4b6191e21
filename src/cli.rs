//! The command line, as users write it. What the words come to is decided in [`crate::settings`].

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use dcsft_engine::lockfile::Tolerance;
use dcsft_engine::units;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const AFTER: &str = "\
Exit codes: 0 done, 1 a stage failed, 2 the spec or the command line is wrong,
3 a locked run diverged, 130 interrupted.

The cache is --cache-dir, else $DCSFT_CACHE, else .dcsft/ in the project: the nearest folder
above the spec that holds .dcsft, .git or Cargo.toml, else the spec's own folder.";

/// Declarative, cached, reproducible experiments in vision-language post-training.
#[derive(Debug, Parser)]
#[command(name = "dcsft", version = env!("DCSFT_VERSION"), styles = STYLES, after_help = AFTER, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What holds for every command.
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Folder of the cache [env: DCSFT_CACHE]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Print data as JSON, one object per line
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// When to colour messages
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = When::Auto, help_heading = "Global options")]
    pub(crate) color: When,
    /// Say more: cached stages and the stages' own log lines
    #[arg(short, long, global = true, action = ArgAction::SetTrue, help_heading = "Global options")]
    pub(crate) verbose: bool,
    /// Say nothing but errors and results
    #[arg(short, long, global = true, action = ArgAction::SetTrue, conflicts_with = "verbose", help_heading = "Global options")]
    pub(crate) quiet: bool,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a spec: compute what the cache lacks, print the results, write the report
    Run(Run),
    /// Say what a run would do, and why
    Plan(Plan),
    /// End the jobs that runs of a spec have left in a cluster's queue
    Cancel(Cancel),
    /// Say why a stage has to run, with old and new values
    Why(Why),
    /// Draw the stages as a graph
    Graph(Graph),
    /// Show what the last run of a spec did or does, or the latest runs
    Status(Status),
    /// Print the results that are in the cache
    Results(Results),
    /// Write the report from what is in the cache
    Report(Report),
    /// Write SPEC.lock: keys, output digests and metrics of every stage
    Lock(Lock),
    /// Write a stage's result in a format that other tools load
    Export(Export),
    /// Score answers with a reward, as the stages do
    Score(Score),
    /// Look into the cache, check it, make it smaller
    #[command(subcommand)]
    Cache(Cache),
    /// List the stage kinds, or describe one
    Stages(Stages),
    /// Print the JSON Schema of a spec
    Schema,
    /// Check this machine: device, threads, cache folder
    Doctor(Doctor),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Run one frozen job (started by `run`)
    #[command(hide = true)]
    Worker(Worker),
}

/// Which study.
#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// The spec file
    #[arg(value_name = "SPEC")]
    pub(crate) spec: PathBuf,
    /// Override a value of the spec, as in vars.steps=100; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Device of the model stages: cpu, cuda, cuda:N, wgpu, wgpu:N, or several GPUs as in cuda:0,cuda:1, for stages
    /// that run at the same time (see --jobs)
    #[arg(
        long,
        env = "DCSFT_DEVICE",
        hide_env_values = true,
        default_value = "cpu"
    )]
    pub(crate) device: String,
}

/// `score`.
#[derive(Debug, Args)]
pub(crate) struct Score {
    /// The reward, as a spec has it: `choice`, or {numeric: {tolerance: 0.01}}
    #[arg(value_name = "REWARD")]
    pub(crate) reward: String,
    /// JSON lines of {"answer": ..., "gold": ...}; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) answers: PathBuf,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Where stages run [default: local, or what dcsft.toml says]
    #[arg(long, value_enum, env = "DCSFT_EXECUTOR", hide_env_values = true)]
    pub(crate) executor: Option<ExecutorName>,
    /// Stages that may run at once [default: the threads; 200 on a cluster]
    #[arg(short, long, value_parser = positive)]
    pub(crate) jobs: Option<usize>,
    /// Threads of all stages together; never changes a result [default: the cores]
    #[arg(long, value_parser = positive)]
    pub(crate) threads: Option<usize>,
    /// After a failure, go on with whatever does not depend on it
    #[arg(short, long)]
    pub(crate) keep_going: bool,
    /// Fail with exit code 3 if keys or outputs differ from SPEC.lock
    #[arg(long)]
    pub(crate) locked: bool,
    /// With --locked: on a device of another arithmetic, evaluations may differ by so much from SPEC.lock [default: nothing
    /// may differ]
    #[arg(long, value_name = "NUMBER", requires = "locked", value_parser = tolerance, allow_negative_numbers = true)]
    pub(crate) tolerance: Option<Tolerance>,
    /// Read all input files again and check cached bytes, trusting no time stamp
    #[arg(long)]
    pub(crate) paranoid: bool,
    /// Run this stage even if it is cached; may be repeated
    #[arg(long, value_name = "STAGE")]
    pub(crate) force: Vec<String>,
    /// Write no report
    #[arg(long)]
    pub(crate) no_report: bool,
}

/// The remote cache.
#[derive(Debug, Args)]
pub(crate) struct RemoteArgs {
    /// A cache to take results from and to bring new ones to: a folder, s3://bucket/folder, gs://..., az://...; empty
    /// for none [default: what dcsft.toml says]
    #[arg(long, value_name = "URL", env = "DCSFT_REMOTE", hide_env_values = true)]
    pub(crate) remote: Option<String>,
}

/// Where stages run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExecutorName {
    /// On this machine.
    #[default]
    Local,
    /// As jobs of a Slurm cluster that shares the cache's folder.
    Slurm,
}

/// `cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
}

/// `plan`.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// Plan as if this stage were not cached; may be repeated
    #[arg(long, value_name = "STAGE")]
    pub(crate) force: Vec<String>,
    /// Read all input files again and check cached bytes
    #[arg(long)]
    pub(crate) paranoid: bool,
    /// List cached stages too
    #[arg(short, long)]
    pub(crate) all: bool,
}

/// `why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// A stage, such as sft or sft[subset=easy]; without it, every stage that is not cached
    #[arg(value_name = "STAGE")]
    pub(crate) stage: Option<String>,
}

/// `graph`.
#[derive(Debug, Args)]
pub(crate) struct Graph {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// Language of the graph
    #[arg(long, value_enum, default_value_t = GraphFormat::Mermaid)]
    pub(crate) format: GraphFormat,
}

/// Graph languages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// Graphviz.
    Dot,
    /// Mermaid, which GitHub renders.
    Mermaid,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The spec file; without it, the latest runs of all specs
    #[arg(value_name = "SPEC")]
    pub(crate) spec: Option<PathBuf>,
    /// Override a value of the spec; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE", requires = "spec")]
    pub(crate) overrides: Vec<String>,
}

/// `results`.
#[derive(Debug, Args)]
pub(crate) struct Results {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// Form of the table
    #[arg(long, value_enum, default_value_t = ResultsFormat::Table)]
    pub(crate) format: ResultsFormat,
    /// Paired differences over the seeds too
    #[arg(long)]
    pub(crate) seeds: bool,
    /// Every evaluated step, not only the last one of each arm
    #[arg(long)]
    pub(crate) all_steps: bool,
}

/// Forms of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResultsFormat {
    /// For the terminal.
    Table,
    /// One object per line.
    Json,
    /// Comma-separated, with a heading.
    Csv,
    /// For a README.
    Markdown,
}

/// `report`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// Folder to write to [default: reports/NAME in the cache; with --set, one of its own beside it]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// `lock`.
#[derive(Debug, Args)]
pub(crate) struct Lock {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// Print it instead of writing SPEC.lock
    #[arg(long)]
    pub(crate) print: bool,
}

/// `export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    /// A stage's output, such as sft[subset=easy].step-100; the default output where none is named
    #[arg(value_name = "STAGE[.OUTPUT]")]
    pub(crate) stage: String,
    /// The folder to write, new or empty
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// What to write [default: merged for models, jsonl for sets and rollouts, files for the rest]
    #[arg(long, value_enum)]
    pub(crate) format: Option<ExportFormat>,
    /// With --format adapter: the model that the adapters belong to, a folder or a name on the Hugging Face Hub
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<String>,
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// A model in Hugging Face's layout, adapters added to its weights.
    Merged,
    /// A model's adapters in PEFT's layout.
    Adapter,
    /// A set in ms-swift's layout with its images; rollouts as JSON lines.
    Jsonl,
    /// Rollouts as a Parquet table.
    Parquet,
    /// The cached files as they are.
    Files,
}

/// `cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// List results: label, key, age, size, seconds; with -v where and by which run each was made
    Ls(CacheLs),
    /// Print the cache's folder, or the folder of an artifact's files
    Path(CachePath),
    /// Re-hash everything; damage is quarantined and computed again by the next run
    Verify,
    /// Bring the results of a spec to a remote cache
    Push(CacheRemote),
    /// Take the results of a spec from a remote cache
    Pull(CacheRemote),
    /// Remove results: all but those of the given specs, old ones, or down to a size
    Gc(CacheGc),
}

/// `cache push`, `cache pull`.
#[derive(Debug, Args)]
pub(crate) struct CacheRemote {
    #[command(flatten)]
    pub(crate) spec: SpecArgs,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// `cache ls`.
#[derive(Debug, Args)]
pub(crate) struct CacheLs {
    /// Only results whose label or key begins with this
    #[arg(value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
}

/// `cache path`.
#[derive(Debug, Args)]
pub(crate) struct CachePath {
    /// An artifact's or key's digest or its first digits; KEY/OUTPUT names one output
    #[arg(value_name = "DIGEST")]
    pub(crate) digest: Option<String>,
}

/// `cache gc`.
#[derive(Debug, Args)]
pub(crate) struct CacheGc {
    /// Keep what these specs need
    #[arg(long, value_name = "SPEC")]
    pub(crate) keep: Vec<PathBuf>,
    /// Override a value of the kept specs, as in their runs; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE", requires = "keep")]
    pub(crate) overrides: Vec<String>,
    /// Remove results until the cache is at most this large, as in 20GiB; what is quick to compute goes first
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_size: Option<u64>,
    /// Remove results that were not used for this long, as in 30d
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) older_than: Option<Duration>,
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

/// `stages`.
#[derive(Debug, Args)]
pub(crate) struct Stages {
    /// The kind to describe
    #[arg(value_name = "KIND")]
    pub(crate) kind: Option<String>,
}

/// `doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Device to check, or several, as in cuda:0,cuda:1
    #[arg(
        long,
        env = "DCSFT_DEVICE",
        hide_env_values = true,
        default_value = "cpu"
    )]
    pub(crate) device: String,
}

/// `completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `worker`.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// The job file
    pub(crate) job: PathBuf,
    /// Say everything in this file instead of on stdout, and live on when the run ends
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number from 1 on is needed".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn tolerance(text: &str) -> Result<Tolerance, String> {
    let tolerance = text.parse().ok().and_then(Tolerance::new);
    tolerance.ok_or_else(|| "a number from 0 such as 1e-3 is needed".to_owned())
}

/// `500MB`, `20GiB`, or bytes.
fn size(text: &str) -> Result<u64, String> {
    units::bytes(text).ok_or_else(|| "a size such as 500MB, 20GiB or 1000000 is needed".to_owned())
}

/// `30d`, `12h`, `90m`.
fn age(text: &str) -> Result<Duration, String> {
    units::seconds(text)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "an age such as 12h, 30d or 8w is needed".to_owned())
}

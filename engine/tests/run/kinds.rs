//! Small stage kinds that make what a run does visible.
//!
//! Every run of a stage leaves a line in the folder named by the environment variable `DCSFT_TEST_TRACE`, in a file
//! named after the stage's `tag`: so tests can count executions across processes.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dcsft_engine::command::{Command, Layouts};
use dcsft_engine::stage::{
    ArtifactType, Cardinality, Cost, Family, FileParam, InputDecl, KindDecl, Numerics, OutputDecl,
    ParamProblem, Progress, Registry, Stage, StageContext, StageError, SummaryResult,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The folder for traces.
pub(crate) const TRACE: &str = "DCSFT_TEST_TRACE";

const PARTS: &[InputDecl] = &[InputDecl {
    name: "parts",
    cardinality: Cardinality::Many,
    accepts: &[ArtifactType::Dataset],
    doc: "Texts.",
}];

/// The arithmetic of a device, as the keys of these tests have it.
pub(crate) fn numerics(device: &str) -> Numerics {
    let class = device.split(':').next().unwrap_or_default();
    Numerics {
        backend: if class == "cpu" { "flex" } else { class }.to_owned(),
        dtype: "f32".to_owned(),
    }
}

/// All kinds of this module.
pub(crate) fn registry() -> Registry {
    Registry::new(numerics)
        .with::<Concat>()
        .with::<Steps>()
        .with::<Tally>()
        .with::<Meet>()
        .with::<Flaky>()
        .with::<Broken>()
        .with::<Labels>()
        .with::<ReadFile>()
        .with::<Rows>()
        .with::<Score>()
        .with_kind(Command::new(Texts))
}

/// What artifacts look like here.
struct Texts;

impl Layouts for Texts {
    fn check(&self, artifact: ArtifactType, dir: &Path) -> Result<(), String> {
        match artifact {
            ArtifactType::Dataset if !dir.join("value.txt").exists() => {
                Err("there is no value.txt".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn skipped(&self, dir: &Path) -> Option<String> {
        let text = fs::read_to_string(dir.join("value.txt")).ok()?;
        text.strip_prefix("skipped: ").map(str::to_owned)
    }

    fn skip(&self, dir: &Path, because: &str) -> Result<(), StageError> {
        let path = dir.join("value.txt");
        fs::write(&path, format!("skipped: {because}")).map_err(StageError::io(&path))
    }
}

fn trace(tag: &str) -> usize {
    let Some(dir) = std::env::var_os(TRACE) else {
        return 0;
    };
    let path = Path::new(&dir).join(tag);
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    file.write_all(b"ran\n").unwrap();
    fs::read_to_string(path).unwrap().lines().count()
}

fn read_parts(ctx: &StageContext) -> Result<Vec<String>, StageError> {
    let read = |dir: &Path| fs::read_to_string(dir.join("value.txt")).map_err(StageError::io(dir));
    ctx.inputs("parts")
        .iter()
        .map(|input| read(&input.dir))
        .collect()
}

fn write(ctx: &StageContext, text: &str) -> Result<(), StageError> {
    let path = ctx.output("out")?.join("value.txt");
    fs::write(&path, text).map_err(StageError::io(&path))
}

fn out() -> Vec<OutputDecl> {
    vec![OutputDecl::new("out", ArtifactType::Dataset)]
}

/// Writes its inputs' texts and its own, cut to `keep` characters.
pub(crate) struct Concat;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConcatParams {
    tag: String,
    text: String,
    keep: usize,
}

impl Default for ConcatParams {
    fn default() -> Self {
        Self {
            tag: "concat".into(),
            text: String::new(),
            keep: 1000,
        }
    }
}

impl Stage for Concat {
    type Params = ConcatParams;
    const DECL: KindDecl = KindDecl {
        name: "concat",
        version: 1,
        summary: "Joins texts.",
        inputs: PARTS,
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &ConcatParams) -> Vec<OutputDecl> {
        out()
    }

    fn run(params: ConcatParams, ctx: &mut StageContext) -> Result<(), StageError> {
        trace(&params.tag);
        let text: String = read_parts(ctx)?.concat() + &params.text;
        let text: String = text.chars().take(params.keep).collect();
        ctx.log(format!("{} characters", text.len()));
        ctx.summarise(json!({"characters": text.len()}));
        write(ctx, &text)
    }
}

/// Counts to `steps`, slowly; carries on from where it was killed.
pub(crate) struct Steps;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepsParams {
    tag: String,
    steps: u64,
    #[serde(default)]
    pause_ms: u64,
    /// Never notices an interrupt.
    #[serde(default)]
    deaf: bool,
}

impl Stage for Steps {
    type Params = StepsParams;
    const DECL: KindDecl = KindDecl {
        name: "steps",
        version: 1,
        summary: "Counts.",
        inputs: PARTS,
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &StepsParams) -> Vec<OutputDecl> {
        out()
    }

    fn run(params: StepsParams, ctx: &mut StageContext) -> Result<(), StageError> {
        trace(&params.tag);
        let path = ctx.state().join("done.txt");
        let mut done: u64 = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        ctx.log(format!("from step {done}"));
        while done < params.steps {
            if ctx.interrupted() && !params.deaf {
                return Err(StageError::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(params.pause_ms));
            done += 1;
            let fresh = path.with_extension("new");
            fs::write(&fresh, done.to_string())
                .and_then(|()| fs::rename(&fresh, &path))
                .map_err(StageError::io(&path))?;
            ctx.progress(Progress {
                done,
                total: params.steps,
                unit: "step".into(),
                ..Progress::default()
            });
        }
        let inputs = read_parts(ctx)?.concat();
        write(ctx, &format!("{inputs}{} counted to {done};", params.tag))
    }
}

/// Writes the numbers up to `to`; those that a relative has are not counted again. A line of trace for each that is.
pub(crate) struct Tally;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TallyParams {
    tag: String,
    to: usize,
    #[serde(default)]
    sign: String,
    /// The family is all results of the sign, whatever parts they were made of.
    #[serde(default)]
    wide: bool,
}

impl Stage for Tally {
    type Params = TallyParams;
    const DECL: KindDecl = KindDecl {
        name: "tally",
        version: 1,
        summary: "Counts, with what others have counted.",
        inputs: PARTS,
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &TallyParams) -> Vec<OutputDecl> {
        out()
    }

    fn family(params: &TallyParams) -> Option<Family> {
        Some(Family {
            params: json!({"sign": params.sign, "wide": params.wide}),
            inputs: if params.wide { &[] } else { &["parts"] },
        })
    }

    fn run(params: TallyParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let sign = params.sign.clone() + &read_parts(ctx)?.concat();
        let known = |dir: &PathBuf| {
            let text = fs::read_to_string(dir.join("value.txt")).unwrap_or_default();
            let mine = |(number, line): &(usize, &str)| *line == format!("{sign}{number}");
            text.lines().enumerate().take_while(mine).count()
        };
        let relatives = ctx.relatives().iter();
        let best = relatives.map(|relative| (known(&relative.outputs["out"]), relative.cost));
        let (known, cost) = best
            .max_by_key(|best| best.0)
            .unwrap_or((0, Cost::default()));
        if known > 0 {
            ctx.save(cost * params.to.min(known) as f64 / known as f64);
        }
        let mut text = String::new();
        for number in 0..params.to {
            if number >= known {
                trace(&params.tag);
                std::thread::sleep(Duration::from_millis(2));
            }
            text += &format!("{sign}{number}\n");
        }
        write(ctx, &text)
    }
}

/// Waits until as many stages of its kind as `party` run at the same time.
pub(crate) struct Meet;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeetParams {
    tag: String,
    party: usize,
}

impl Stage for Meet {
    type Params = MeetParams;
    const DECL: KindDecl = KindDecl {
        name: "meet",
        version: 1,
        summary: "Waits for others.",
        inputs: &[],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &MeetParams) -> Vec<OutputDecl> {
        out()
    }

    fn run(params: MeetParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let place = PathBuf::from(std::env::var_os(TRACE).unwrap()).join("meeting");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(&params.tag), "").unwrap();
        let started = Instant::now();
        while fs::read_dir(&place).unwrap().count() < params.party {
            if started.elapsed() > Duration::from_secs(30) {
                return Err(StageError::failed("nobody came"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        write(ctx, &format!("threads {}", ctx.threads()))
    }
}

/// Fails the first `failures` times.
pub(crate) struct Flaky;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FlakyParams {
    tag: String,
    failures: usize,
}

impl Stage for Flaky {
    type Params = FlakyParams;
    const DECL: KindDecl = KindDecl {
        name: "flaky",
        version: 1,
        summary: "Fails at first.",
        inputs: &[],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &FlakyParams) -> Vec<OutputDecl> {
        out()
    }

    fn run(params: FlakyParams, ctx: &mut StageContext) -> Result<(), StageError> {
        // What a failed try has written must not be in the result.
        fs::write(
            ctx.output("out")?
                .join(format!("try-{}", trace(&params.tag))),
            "",
        )
        .unwrap();
        if fs::read_to_string(PathBuf::from(std::env::var_os(TRACE).unwrap()).join(&params.tag))
            .unwrap()
            .lines()
            .count()
            <= params.failures
        {
            return Err(StageError::failed("not yet"));
        }
        write(ctx, "at last")
    }
}

/// Does not give what it promises.
pub(crate) struct Broken;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BrokenParams {
    how: How,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum How {
    Fail,
    Panic,
    Exit,
    NoOutput,
    /// Ends by a signal.
    Abort,
    /// Dies, and leaves a process behind that holds its stdout and talks.
    LeaveTalker,
    /// Succeeds, and leaves a process of its group behind that holds its stdout.
    LeaveSleeper,
    /// Prints three megabytes without an end of line.
    Shout,
    /// Writes a link, which no cache can keep.
    Link,
}

impl Stage for Broken {
    type Params = BrokenParams;
    const DECL: KindDecl = KindDecl {
        name: "broken",
        version: 1,
        summary: "Fails.",
        inputs: PARTS,
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &BrokenParams) -> Vec<OutputDecl> {
        out()
    }

    fn run(params: BrokenParams, ctx: &mut StageContext) -> Result<(), StageError> {
        ctx.log("about to fail");
        match params.how {
            How::Fail => Err(StageError::failed("as it was told")),
            How::Panic => panic!("index out of luck"),
            How::Exit => std::process::exit(7),
            How::NoOutput => Ok(()),
            How::Abort => std::process::abort(),
            How::LeaveTalker => {
                leave_behind("for i in $(seq 300); do echo talk; sleep 0.1; done", true);
                std::process::exit(7)
            }
            How::LeaveSleeper => {
                leave_behind("sleep 300", false);
                write(ctx, "done")
            }
            How::Shout => {
                let mut out = std::io::stdout();
                out.write_all(&vec![b'x'; 3_000_000]).unwrap();
                out.write_all(b"\n").unwrap();
                write(ctx, "done")
            }
            How::Link => {
                let link = ctx.output("out")?.join("link");
                std::os::unix::fs::symlink("/dev/null", link).unwrap();
                Ok(())
            }
        }
    }
}

/// Starts a shell that outlives the stage and writes its number into the trace. `apart` puts it into a group of its own.
#[expect(clippy::zombie_processes, reason = "it is to be left behind")]
fn leave_behind(script: &str, apart: bool) {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]);
    if apart {
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
    }
    let child = command.spawn().unwrap();
    let trace = PathBuf::from(std::env::var_os(TRACE).unwrap());
    fs::write(trace.join("left behind"), child.id().to_string()).unwrap();
}

/// Writes where its inputs come from.
pub(crate) struct Labels;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Nothing {}

impl Stage for Labels {
    type Params = Nothing;
    const DECL: KindDecl = KindDecl {
        name: "labels",
        version: 1,
        summary: "Lists labels.",
        inputs: PARTS,
        numeric: false,
        labelled: true,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &Nothing) -> Vec<OutputDecl> {
        out()
    }

    fn run(_: Nothing, ctx: &mut StageContext) -> Result<(), StageError> {
        trace("labels");
        let labels: Vec<_> = ctx
            .inputs("parts")
            .iter()
            .map(|input| &input.label)
            .collect();
        let text = serde_json::to_string(&labels).unwrap();
        write(ctx, &text)
    }
}

/// Copies a file of the user's.
pub(crate) struct ReadFile;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadFileParams {
    path: String,
    #[serde(default = "yes")]
    required: bool,
    /// Writes to the file after reading it.
    #[serde(default)]
    scribble: bool,
}

fn yes() -> bool {
    true
}

impl Stage for ReadFile {
    type Params = ReadFileParams;
    const DECL: KindDecl = KindDecl {
        name: "read_file",
        version: 1,
        summary: "Copies a file.",
        inputs: &[],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[&["path"]],
    };

    fn outputs(_: &ReadFileParams) -> Vec<OutputDecl> {
        out()
    }

    fn files(params: &ReadFileParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        let files = vec![(String::new(), root.join(&params.path))];
        Ok(vec![FileParam {
            field: "path".into(),
            files,
            required: params.required,
        }])
    }

    fn run(params: ReadFileParams, ctx: &mut StageContext) -> Result<(), StageError> {
        trace("read_file");
        let text = fs::read_to_string(&params.path).unwrap_or_else(|_| "absent".into());
        if params.scribble {
            fs::write(&params.path, format!("{text} and more"))
                .map_err(StageError::io(&params.path))?;
        }
        write(ctx, &text)
    }
}

/// Writes the squares of the rows, slowly, one file of the state for each; can be cut. A line of trace for each row.
pub(crate) struct Rows;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowsParams {
    tag: String,
    rows: usize,
    #[serde(default)]
    pause_ms: u64,
    /// Waits before its first row until so many shards do.
    #[serde(default)]
    party: usize,
    /// The row at which it fails as long as the trace has a file `fail`, dies as long as it has a file `die`, and never
    /// ends as long as it has a file `hang`; what dies removes the file.
    #[serde(default)]
    bad: Option<usize>,
}

impl Rows {
    fn meet(party: usize, name: &str) -> Result<(), StageError> {
        let place = PathBuf::from(std::env::var_os(TRACE).unwrap()).join("meeting");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(name), "").unwrap();
        let started = Instant::now();
        while fs::read_dir(&place).unwrap().count() < party {
            if started.elapsed() > Duration::from_secs(60) {
                return Err(StageError::failed("nobody came"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn stumble(row: usize) -> Result<(), StageError> {
        let trace = PathBuf::from(std::env::var_os(TRACE).unwrap());
        if trace.join("fail").exists() {
            return Err(StageError::failed(format!("row {row} is bad")));
        }
        if fs::remove_file(trace.join("die")).is_ok() {
            std::process::abort();
        }
        while trace.join("hang").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Stage for Rows {
    type Params = RowsParams;
    const DECL: KindDecl = KindDecl {
        name: "rows",
        version: 1,
        summary: "Squares rows.",
        inputs: PARTS,
        numeric: true,
        labelled: false,
        shardable: true,
        paths: &[],
    };

    fn outputs(_: &RowsParams) -> Vec<OutputDecl> {
        out()
    }

    fn run(params: RowsParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let rows = match ctx.shard() {
            Some(shard) => shard.rows(params.rows, 1),
            None => 0..params.rows,
        };
        if let (Some(shard), 1..) = (ctx.shard(), params.party) {
            Self::meet(params.party, &shard.index.to_string())?;
        }
        let folders: Vec<PathBuf> = std::iter::once(ctx.state().to_owned())
            .chain(ctx.parts().iter().cloned())
            .collect();
        let mut text = String::new();
        for (done, row) in (1..).zip(rows) {
            if ctx.interrupted() {
                return Err(StageError::Interrupted);
            }
            let name = format!("row-{row}");
            let known = folders
                .iter()
                .find_map(|folder| fs::read_to_string(folder.join(&name)).ok());
            let square = match known {
                Some(square) => square,
                None => {
                    if params.bad == Some(row) {
                        Self::stumble(row)?;
                    }
                    std::thread::sleep(Duration::from_millis(params.pause_ms));
                    trace(&params.tag);
                    let (square, path) = ((row * row).to_string(), ctx.state().join(&name));
                    fs::write(&path, &square).map_err(StageError::io(&path))?;
                    square
                }
            };
            text += &format!("{square}\n");
            ctx.progress(Progress {
                done,
                total: params.rows as u64,
                unit: "row".into(),
                ..Progress::default()
            });
        }
        match ctx.shard() {
            Some(_) => Ok(()),
            None => write(ctx, &text),
        }
    }
}

/// A numeric kind whose summary holds results.
pub(crate) struct Score;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScoreParams {
    value: f64,
    /// Added on other devices than the CPU.
    #[serde(default)]
    drift: f64,
}

impl Stage for Score {
    type Params = ScoreParams;
    const DECL: KindDecl = KindDecl {
        name: "score",
        version: 1,
        summary: "Has a value.",
        inputs: PARTS,
        numeric: true,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &ScoreParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new("evaluation", ArtifactType::Evaluation)]
    }

    fn run(params: ScoreParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let value = match ctx.device() {
            "cpu" => params.value,
            _ => params.value + params.drift,
        };
        fs::write(
            ctx.output("evaluation")?.join("value.txt"),
            value.to_string(),
        )
        .unwrap();
        ctx.report(vec![SummaryResult {
            set: "id".into(),
            split: "id".into(),
            metric: "accuracy".into(),
            value,
            n: Some(10),
            ci: Some([value - 0.1, value + 0.1]),
            ..SummaryResult::default()
        }]);
        Ok(())
    }
}

/// `concat` as a later version of the program would have it.
pub(crate) struct NewerConcat;

impl Stage for NewerConcat {
    type Params = ConcatParams;
    const DECL: KindDecl = KindDecl {
        name: Concat::DECL.name,
        version: 2,
        summary: Concat::DECL.summary,
        inputs: PARTS,
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(params: &ConcatParams) -> Vec<OutputDecl> {
        Concat::outputs(params)
    }

    fn run(params: ConcatParams, ctx: &mut StageContext) -> Result<(), StageError> {
        Concat::run(params, ctx)
    }
}

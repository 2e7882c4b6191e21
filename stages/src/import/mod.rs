//! `import`: answers that were sampled elsewhere, with vLLM or ms-swift say, as rollouts.
//!
//! A row of the list names its sample by content ID, or by question and image. What matches no sample of the set is left
//! out, counted and listed.

mod join;
mod row;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_engine::stage::{
    ArtifactType, Cardinality, FileParam, InputDecl, KindDecl, LeftOut, OutputDecl, ParamProblem,
    Stage, StageContext, StageError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::OnEmpty;
use crate::answers::{grader, reward_problems};
use crate::data::{Dataset, Generation, RolloutRecord, RolloutWriter};
use crate::dataset::source::rows;
use crate::files::JsonLines;
use crate::misfit::{DROPPED, MaxDropped, OnError};
use crate::reward::{self, Asked, Grader, Reward};
use crate::skipped;
use join::Samples;
use row::{Left, Reason, Row};

const OUTPUT: &str = "rollouts";

/// `with:` of `import`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImportParams {
    /// The list of answers: JSON lines, a JSON list or Parquet. Without it, the input `from` has it.
    pub path: Option<String>,
    /// The list's name among the files of the input `from`; not needed where there is one file.
    pub file: Option<String>,
    /// What makes an answer right. Without it, each row has a `reward` of its own.
    pub reward: Option<Reward>,
    /// Answers to take of each sample; samples with fewer are left out. Without it, all samples have to have as many.
    #[schemars(range(min = 1))]
    pub n: Option<usize>,
    /// What the list calls its fields, by their names here: `{text: response}`.
    pub fields: BTreeMap<String, String>,
    /// What happens to a row that cannot be used.
    pub on_error: OnError,
    /// So many rows may be left out: a count, or below 1 a share. More fail the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_dropped: Option<MaxDropped>,
}

/// The stage kind.
pub struct ImportRollouts;

impl Stage for ImportRollouts {
    type Params = ImportParams;
    const DECL: KindDecl = KindDecl {
        name: "import",
        version: 1,
        summary: "Reads answers that were sampled elsewhere and joins them with the samples",
        inputs: &[
            InputDecl {
                name: "data",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Dataset],
                doc: "The samples that were asked about.",
            },
            InputDecl {
                name: "from",
                cardinality: Cardinality::Optional,
                accepts: &[ArtifactType::Files],
                doc: "The output of a `command` that holds the list. Without it, `path` names the list.",
            },
        ],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[&["path"], reward::FILES],
    };

    fn outputs(_params: &ImportParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new(OUTPUT, ArtifactType::Rollouts)]
    }

    fn check(params: &ImportParams) -> Vec<ParamProblem> {
        let reward = params.reward.iter().flat_map(reward_problems);
        let n = params.n.filter(|n| *n == 0);
        let n = n.map(|_| ParamProblem::new("n", "must be at least 1, not 0"));
        let unknown = params
            .fields
            .keys()
            .filter(|name| !row::NAMES.contains(&name.as_str()));
        let unknown = unknown.map(|name| {
            let field = vec!["fields".to_owned(), name.clone()];
            let message = format!("rows have no `{name}`; they have {}", row::NAMES.join(", "));
            ParamProblem::new(field, message)
        });
        let most = params.max_dropped.and_then(MaxDropped::problem);
        reward.chain(n).chain(unknown).chain(most).collect()
    }

    fn files(params: &ImportParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        let file = |path: &String| FileParam {
            field: "path".into(),
            files: vec![(String::new(), root.join(path))],
            required: true,
        };
        let mut files: Vec<FileParam> = params.path.iter().map(file).collect();
        if let Some(reward) = &params.reward {
            files.extend(reward.files(root)?);
        }
        Ok(files)
    }

    fn run(params: ImportParams, ctx: &mut StageContext) -> Result<(), StageError> {
        if let Some(because) = skipped_by(ctx)? {
            return skipped::skip(ctx, &Self::outputs(&params), because);
        }
        let data = Dataset::open(&ctx.input("data")?.dir)?;
        let path = list(&params, ctx)?;
        let dir = ctx.output(OUTPUT)?;
        let read = rows(&path).map_err(StageError::failed)?;
        let count = read.len();
        let reward = params.reward.as_ref();
        let mut import = Import {
            params: &params,
            samples: Samples::new(&data),
            reward: reward
                .map(|reward| Ok::<_, StageError>((reward, grader(reward, ctx)?)))
                .transpose()?,
            data: &data,
            answers: vec![Vec::new(); data.len()],
            left: Vec::new(),
            disagreements: 0,
        };
        for (index, cell) in read.into_iter().enumerate() {
            let row = cell
                .map_err(|dropped| Left::new(Reason::Syntax, dropped.detail))
                .and_then(|cell| Row::read(&cell, &params.fields));
            let taken = match row {
                Ok(row) => import.take(index, row)?,
                Err(left) => Err(left),
            };
            if let Err(left) = taken {
                import.left.push((index, left));
            }
        }
        if let Some((_, grader)) = import.reward.take() {
            grader.finish().map_err(StageError::failed)?;
        }
        import.write(count, &dir, ctx)
    }
}

/// Why the stage is to be skipped, if an input of it was.
fn skipped_by(ctx: &StageContext) -> Result<Option<String>, StageError> {
    let from = ctx.optional("from").and_then(|from| skipped::of(&from.dir));
    match from {
        Some(because) => Ok(Some(because)),
        None => skipped::reason(ctx, OnEmpty::Fail),
    }
}

/// The list's file.
fn list(params: &ImportParams, ctx: &StageContext) -> Result<PathBuf, StageError> {
    let from = ctx.optional("from");
    match (&params.path, from, &params.file) {
        (Some(path), None, None) => Ok(path.into()),
        (None, Some(from), Some(file)) => {
            let path = from.dir.join(file);
            match path.is_file() {
                true => Ok(path),
                false => Err(StageError::failed(format!(
                    "the input `from` holds no file `{file}`; it holds {}",
                    names(&from.dir)?.join(", ")
                ))),
            }
        }
        (None, Some(from), None) => match names(&from.dir)?.as_slice() {
            [name] => Ok(from.dir.join(name)),
            names => Err(StageError::failed(format!(
                "the input `from` holds several files: name the list with `file`, one of {}",
                names.join(", ")
            ))),
        },
        (None, None, _) => Err(StageError::failed(
            "there is no list: name its file with `path`, or the output of a command with `from`",
        )),
        (Some(_), _, _) => Err(StageError::failed(
            "`path` names the list, and so do `from` and `file`: one of them is enough",
        )),
    }
}

fn names(dir: &Path) -> Result<Vec<String>, StageError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(StageError::io(dir))? {
        let entry = entry.map_err(StageError::io(dir))?;
        if entry.path().is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What has been read so far.
struct Import<'a> {
    params: &'a ImportParams,
    data: &'a Dataset,
    samples: Samples<'a>,
    /// The stage's reward, if it has one.
    reward: Option<(&'a Reward, Grader<'a>)>,
    /// Answers by sample, each with its place: the generation where the row says it, then the row.
    answers: Vec<Vec<((u64, usize), Generation)>>,
    left: Vec<(usize, Left)>,
    /// Rows whose own reward says something else than the spec's.
    disagreements: u64,
}

/// A line of `dropped.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    reason: Reason,
    detail: &'a str,
}

impl Import<'_> {
    /// Puts a row's answer to its sample; the row where it cannot be used.
    fn take(&mut self, index: usize, row: Row) -> Result<Result<(), Left>, StageError> {
        let found = self.samples.find(&row);
        let at = match found {
            Ok(at) => at,
            Err(left) => return Ok(Err(left)),
        };
        let reward = match self.reward(at, &row)? {
            Ok(reward) => reward,
            Err(left) => return Ok(Err(left)),
        };
        let place = (row.generation.unwrap_or(u64::MAX), index);
        self.answers[at].push((
            place,
            Generation {
                text: row.text,
                tokens: row.tokens,
                logprobs: row.logprobs,
                reward,
                finished: row.finished,
            },
        ));
        Ok(Ok(()))
    }

    /// What a row's answer is worth.
    fn reward(&mut self, at: usize, row: &Row) -> Result<Result<f32, Left>, StageError> {
        let sample = &self.data.samples()[at];
        let Some((reward, grader)) = &self.reward else {
            let detail = "the row has no `reward`, and the stage has none either";
            return Ok(row
                .reward
                .ok_or_else(|| Left::new(Reason::NoReward, detail)));
        };
        if let Err(error) = reward.check(&sample.answer) {
            return Ok(Err(Left::new(Reason::Answer, error.to_string())));
        }
        let asked = Asked {
            id: &sample.id,
            prompt: &sample.prompt,
            completion: &row.text,
            answer: &sample.answer,
        };
        let given = grader.one(asked).map_err(StageError::failed)?;
        let differs = row.reward.is_some_and(|own| (own >= 1.0) != (given >= 1.0));
        self.disagreements += u64::from(differs);
        Ok(Ok(given))
    }

    /// Writes the artifact of the samples that have enough answers, and says what was left out.
    fn write(mut self, rows: usize, dir: &Path, ctx: &mut StageContext) -> Result<(), StageError> {
        let matched: usize = self.answers.iter().map(Vec::len).sum();
        if matched == 0 {
            let first = self
                .left
                .first()
                .map(|(index, left)| format!("; row {}: {}", index + 1, left.detail));
            return Err(StageError::failed(format!(
                "none of the {rows} rows is an answer to a sample of `data`{}",
                first.unwrap_or_default()
            )));
        }
        let n = self.n()?;
        let info = self.data.info();
        let mut writer = RolloutWriter::create(dir, &info.set, info.split, n)?;
        let (mut samples, mut right) = (0, 0);
        for (sample, mut answers) in self
            .data
            .samples()
            .iter()
            .zip(std::mem::take(&mut self.answers))
        {
            answers.sort_by_key(|(place, _)| *place);
            if answers.len() < n {
                let detail = format!(
                    "sample {} has {} answers, not {n}",
                    sample.id,
                    answers.len()
                );
                let rows = answers
                    .iter()
                    .map(|((_, row), _)| (*row, Left::new(Reason::TooFew, &*detail)));
                self.left.extend(rows);
                continue;
            }
            for ((_, row), _) in answers.drain(n..) {
                let detail = format!("sample {} has {n} answers already", sample.id);
                self.left.push((row, Left::new(Reason::Surplus, detail)));
            }
            let generations = answers
                .into_iter()
                .map(|(_, generation)| generation)
                .collect();
            let record = RolloutRecord {
                id: sample.id.clone(),
                generations,
            };
            samples += 1;
            right += record.right();
            writer.push(&record)?;
        }
        writer.finish()?;
        self.report(rows, dir, ctx)?;
        let without = self.data.len() - samples;
        if without > 0 {
            ctx.warn(format!(
                "{without} of {} samples of the set have no answers here, or too few: they have no difficulty",
                self.data.len()
            ));
        }
        if self.disagreements > 0 {
            ctx.warn(format!(
                "the reward of {} rows says something else than the stage's, which counts",
                self.disagreements
            ));
        }
        ctx.summarise(json!({
            "rows": rows,
            "samples": samples,
            "samples_without_answers": without,
            "n": n,
            "answers": samples * n,
            "pass_rate": right as f64 / (samples * n).max(1) as f64,
        }));
        Ok(())
    }

    /// Answers of each sample.
    fn n(&self) -> Result<usize, StageError> {
        let counts = self.answers.iter().map(Vec::len).filter(|count| *count > 0);
        let (least, most) = (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0));
        match self.params.n {
            Some(n) if n <= most => Ok(n),
            Some(n) => Err(StageError::failed(format!(
                "no sample has {n} answers: the most are {most}"
            ))),
            None if least == most => Ok(most),
            None => Err(StageError::failed(format!(
                "samples have {least} to {most} answers: say `n: {most}` to leave out samples with fewer, or `n: {least}` \
                 to take the first {least} of each"
            ))),
        }
    }

    fn report(
        &mut self,
        rows: usize,
        dir: &Path,
        ctx: &mut StageContext,
    ) -> Result<(), StageError> {
        self.left.sort_by_key(|(index, _)| *index);
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        let mut lines = (!self.left.is_empty())
            .then(|| JsonLines::create(&dir.join(DROPPED)))
            .transpose()?;
        for (index, Left { reason, detail }) in &self.left {
            *reasons.entry(reason.name().to_owned()).or_default() += 1;
            if let Some(lines) = &mut lines {
                let (index, reason) = (*index, *reason);
                lines.write(&Line {
                    index,
                    reason,
                    detail,
                })?;
            }
        }
        let list = lines.is_some().then(|| format!("{OUTPUT}/{DROPPED}"));
        if let Some(lines) = lines {
            lines.finish()?;
        }
        let left_out = LeftOut::new("row", rows as u64, reasons, list);
        if let (OnError::Fail, Some((index, first))) = (self.params.on_error, self.left.first()) {
            return Err(StageError::failed(format!(
                "{}; row {}: {} (`on_error: drop` leaves such rows out)",
                left_out.sentence().unwrap_or_default(),
                index + 1,
                first.detail
            )));
        }
        if let Some(most) = self.params.max_dropped {
            most.check(&left_out).map_err(StageError::failed)?;
        }
        ctx.leave_out(left_out);
        Ok(())
    }
}

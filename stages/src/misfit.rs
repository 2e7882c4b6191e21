//! Samples that a model cannot take: counted by reason and left out, or the stage fails.

use std::collections::BTreeMap;

use dcsft_engine::stage::{LeftOut, ParamProblem, StageContext, StageError};
use dcsft_vlm::error::VlmError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::DataError;
use crate::files::JsonLines;

/// The file that lists what was left out, in the stage's first output or its log.
pub(crate) const DROPPED: &str = "dropped.jsonl";

/// What happens to a sample that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// It is left out and counted under its reason.
    #[default]
    Drop,
    /// The stage fails and names the sample.
    Fail,
}

/// How many samples may be left out: a whole number of them, or below 1 a share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct MaxDropped(#[schemars(range(min = 0.0))] pub f64);

impl MaxDropped {
    /// What is wrong with the number.
    pub(crate) fn problem(self) -> Option<ParamProblem> {
        let share = (0.0..1.0).contains(&self.0);
        let count = self.0 >= 1.0 && self.0.fract() == 0.0;
        (!share && !count).then(|| {
            let message = format!(
                "{} is neither a number of samples nor a share of them below 1",
                self.0
            );
            ParamProblem::new("max_dropped", message)
        })
    }

    /// Fails where more was left out.
    pub(crate) fn check(self, left_out: &LeftOut) -> Result<(), String> {
        let most = if self.0 < 1.0 {
            self.0 * left_out.of as f64
        } else {
            self.0
        };
        match left_out.sentence() {
            Some(sentence) if left_out.count as f64 > most => Err(format!(
                "{sentence}; `max_dropped: {}` allows {}",
                self.0,
                most.floor()
            )),
            _ => Ok(()),
        }
    }
}

/// Why one sample does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Misfit {
    /// The sample's content ID.
    #[serde(default)]
    pub(crate) id: String,
    /// A short constant to count by: `vocabulary`, `too_long`, `image`, `answer`, `other`.
    pub(crate) reason: String,
    /// What does not fit, for people.
    pub(crate) detail: String,
}

impl Misfit {
    /// A misfit of the sample with content ID `id`.
    pub(crate) fn new(reason: &str, id: &str, detail: impl std::fmt::Display) -> Self {
        Self {
            id: id.to_owned(),
            reason: reason.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// What the model says of the sample with content ID `id`.
    pub(crate) fn of_model(id: &str, error: &VlmError) -> Self {
        let reason = match error {
            VlmError::Vocabulary { .. } => "vocabulary",
            VlmError::TooLong { .. } => "too_long",
            _ => "other",
        };
        Self::new(reason, id, error)
    }

    /// Fails where such samples are not to be left out.
    pub(crate) fn refuse(&self, on_error: OnError) -> Result<(), StageError> {
        if on_error != OnError::Fail {
            return Ok(());
        }
        Err(StageError::failed(format!(
            "sample {}: {} (`on_error: drop` leaves such samples out)",
            self.id, self.detail
        )))
    }

    /// A problem of the sample's own data, or the error back where the whole set cannot be read.
    pub(crate) fn of_data(id: &str, error: DataError) -> Result<Self, StageError> {
        match error {
            DataError::Image(_) | DataError::TooLarge { .. } | DataError::Sample { .. } => {
                Ok(Self::new("image", id, error))
            }
            other => Err(other.into()),
        }
    }
}

/// Samples left out: counted, and listed in a file of an output.
pub(crate) struct Dropped {
    on_error: OnError,
    counts: BTreeMap<String, u64>,
    /// The output that the list goes to.
    output: &'static str,
    /// It is written once there is something to list.
    lines: Option<JsonLines>,
}

/// Samples named in the log for each reason.
const NAMED: u64 = 3;

impl Dropped {
    /// Nothing yet; what is left out will be listed in the stage's output `output`.
    pub(crate) fn new(on_error: OnError, output: &'static str) -> Self {
        Self {
            on_error,
            counts: BTreeMap::new(),
            output,
            lines: None,
        }
    }

    /// Leaves a sample out, or fails.
    pub(crate) fn add(&mut self, ctx: &mut StageContext, misfit: Misfit) -> Result<(), StageError> {
        misfit.refuse(self.on_error)?;
        let Misfit { id, reason, detail } = &misfit;
        let lines = match &mut self.lines {
            Some(lines) => lines,
            none => {
                let path = ctx.output(self.output)?.join(DROPPED);
                none.insert(JsonLines::create(&path)?)
            }
        };
        lines.write(&misfit)?;
        let count = self.counts.entry(reason.clone()).or_default();
        *count += 1;
        if *count <= NAMED {
            ctx.log(format!("left out ({reason}): sample {id}: {detail}"));
        }
        Ok(())
    }

    /// How many samples were left out.
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Closes the list and reports what was left out of `all` samples.
    pub(crate) fn finish(
        self,
        ctx: &mut StageContext,
        all: usize,
        most: Option<MaxDropped>,
    ) -> Result<LeftOut, StageError> {
        let list = self.lines.is_some();
        if let Some(lines) = self.lines {
            lines.finish()?;
        }
        let list = list.then(|| format!("{}/{DROPPED}", self.output));
        let left_out = LeftOut::new("sample", all as u64, self.counts, list);
        if let Some(most) = most {
            most.check(&left_out).map_err(StageError::failed)?;
        }
        ctx.leave_out(left_out.clone());
        Ok(left_out)
    }

    /// Fails where no sample of `all` is left for `what`.
    pub(crate) fn ensure_some_left(&self, all: usize, what: &str) -> Result<(), StageError> {
        if all == 0 {
            return Err(StageError::failed(format!(
                "the input `data` has no samples, so there is nothing to {what}"
            )));
        }
        if self.total() == all as u64 {
            let reasons: Vec<String> = self
                .counts
                .iter()
                .map(|(reason, count)| format!("{reason}: {count}"))
                .collect();
            return Err(StageError::failed(format!(
                "none of the {all} samples fits the model ({}), so there is nothing to {what}",
                reasons.join(", ")
            )));
        }
        Ok(())
    }
}

//! Progress events at a pace that people can read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dcsft_engine::stage::{Progress, StageContext};

/// Shortest time between two events of one stage.
const PACE: Duration = Duration::from_millis(200);
/// Part of the old rate that each event keeps, so that the number shown does not jump.
const SMOOTHING: f64 = 0.7;

/// Turns "this many units are done" into [`Progress`] events. Clock times go into these events alone and never
/// into an output.
pub(crate) struct Meter {
    total: u64,
    /// How many of them are to do.
    to_do: u64,
    unit: &'static str,
    samples: u64,
    last: Instant,
    sent: bool,
    rate: Option<f64>,
}

impl Meter {
    /// A meter for `total` units.
    pub(crate) fn new(total: u64, unit: &'static str) -> Self {
        Self {
            total,
            to_do: total,
            unit,
            samples: 0,
            last: Instant::now(),
            sent: false,
            rate: None,
        }
    }

    /// The same where only `to_do` of the units are.
    pub(crate) fn until(self, to_do: u64) -> Self {
        Self { to_do, ..self }
    }

    /// `done` units are done, `samples` samples since the last call; `fields` are further numbers to show. An
    /// event is sent for the first call, the last unit, and in between at most every 200 ms.
    pub(crate) fn tick(
        &mut self,
        ctx: &mut StageContext,
        done: u64,
        samples: u64,
        fields: &[(&str, f64)],
    ) {
        self.samples += samples;
        let elapsed = self.last.elapsed();
        if self.sent && done < self.to_do && elapsed < PACE {
            return;
        }
        let now = self.samples as f64 / elapsed.as_secs_f64().max(1e-6);
        let rate = self
            .rate
            .map_or(now, |old| SMOOTHING * old + (1.0 - SMOOTHING) * now);
        // The first event comes too early to say anything of the pace.
        self.rate = self.sent.then_some(rate);
        ctx.progress(Progress {
            done,
            total: self.total,
            unit: self.unit.to_owned(),
            rate: self.rate,
            fields: fields
                .iter()
                .map(|&(name, value)| (name.to_owned(), value))
                .collect::<BTreeMap<_, _>>(),
        });
        (self.samples, self.last, self.sent) = (0, Instant::now(), true);
    }
}

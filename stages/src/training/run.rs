//! A training run inside a stage: progress, checkpoints, and states to go on from.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use dcsft_engine::stage::{StageContext, StageError};
use dcsft_vlm::train::{Checkpoint, Objective, Observer, STATE_FILE, Trainer};

use super::checkpoints::Checkpoints;
use super::continuation::{self, owner};
use super::settings::Run;
use crate::files;
use crate::model::further_devices;
use crate::progress::Meter;

/// A state is saved at the earliest after this time, and not before the last save was a twentieth of the time.
const SAVE_EVERY: Duration = Duration::from_secs(5);
const SAVE_SHARE: u32 = 20;

/// What of a step's record is shown as progress.
pub(crate) trait Report {
    /// The step, counted from 1.
    fn step(&self) -> usize;
    /// Samples that the step took.
    fn samples(&self) -> usize;
    /// Numbers to show.
    fn fields(&self) -> Vec<(&'static str, f64)>;
}

/// A part of a step that several devices share out, by the field that says how it is cut.
pub(crate) struct Shared {
    pub(crate) field: &'static str,
    /// Pieces that it has: more devices than that have nothing to do.
    pub(crate) pieces: usize,
}

/// Runs `trainer` to its end on the devices that the stage was given, from where an earlier try has stopped or another run
/// has ended, and writes all outputs but the log.
///
/// # Errors
/// [`StageError::Interrupted`] once the state is saved; else what the trainer says.
pub(crate) fn train<O: Objective<Record: Report>>(
    ctx: &mut StageContext,
    trainer: &mut Trainer<'_, O>,
    run: &Run,
    shared: &[Shared],
) -> Result<(), StageError> {
    spread(ctx, trainer, shared)?;
    let checkpoints = Checkpoints::new(ctx)?;
    let dir = ctx.state().to_owned();
    if resume(ctx, trainer, &checkpoints, &dir)? {
        continuation::count_again(ctx);
    } else {
        continuation::take_over(ctx, trainer, &checkpoints)?;
    }
    steps(ctx, trainer, &checkpoints, &dir)?;
    checkpoints.publish(ctx, run, trainer.total_steps())?;
    if run.keep_state {
        continuation::keep(ctx, trainer)?;
    }
    Ok(())
}

fn spread<O: Objective>(
    ctx: &mut StageContext,
    trainer: &mut Trainer<'_, O>,
    shared: &[Shared],
) -> Result<(), StageError> {
    let further = further_devices(ctx)?;
    if further.is_empty() {
        return Ok(());
    }
    let devices = 1 + further.len();
    ctx.log(format!("training on {devices} devices"));
    for Shared { field, pieces } in shared {
        if *pieces < devices {
            ctx.log(format!(
                "warning: `{field}` cuts a step's work into {pieces} of which each device takes one: {} of {devices} devices \
                 have nothing to do then",
                devices - pieces
            ));
        }
    }
    trainer.spread(&further);
    Ok(())
}

/// All steps that are left, with a state saved from time to time.
fn steps<O: Objective<Record: Report>>(
    ctx: &mut StageContext,
    trainer: &mut Trainer<'_, O>,
    checkpoints: &Checkpoints,
    dir: &Path,
) -> Result<(), StageError> {
    let meter = Meter::new(trainer.total_steps() as u64, "step");
    let mut watch = Watch {
        ctx,
        meter,
        checkpoints,
        saved: Instant::now(),
        pause: SAVE_EVERY,
    };
    loop {
        trainer.run(&mut watch).map_err(StageError::failed)?;
        if trainer.steps_done() == trainer.total_steps() {
            return Ok(());
        }
        let start = Instant::now();
        trainer
            .save_state(dir, &owner(watch.ctx))
            .map_err(StageError::failed)?;
        if watch.ctx.interrupted() {
            return Err(StageError::Interrupted);
        }
        watch.saved = Instant::now();
        watch.pause = SAVE_EVERY.max(start.elapsed() * SAVE_SHARE);
    }
}

/// Goes on from the state of an earlier try, if there is one that is whole, with the checkpoints that it has kept.
/// Anything else is removed, and the stage trains from the start.
fn resume<O: Objective>(
    ctx: &mut StageContext,
    trainer: &mut Trainer<'_, O>,
    checkpoints: &Checkpoints,
    dir: &Path,
) -> Result<bool, StageError> {
    let file = dir.join(STATE_FILE);
    if !file.exists() {
        return Ok(false);
    }
    let restored = checkpoints.check().and_then(|()| {
        let restored = trainer.restore(dir, &owner(ctx));
        restored.map_err(|error| error.to_string())
    });
    if let Err(problem) = restored {
        files::remove(&file).map_err(StageError::io(&file))?;
        ctx.log(format!(
            "warning: the saved state is not taken up, and training starts anew: {problem}"
        ));
        return Ok(false);
    }
    ctx.log(format!(
        "going on after step {} of {}",
        trainer.steps_done(),
        trainer.total_steps()
    ));
    Ok(true)
}

struct Watch<'a> {
    ctx: &'a mut StageContext,
    meter: Meter,
    checkpoints: &'a Checkpoints,
    saved: Instant,
    pause: Duration,
}

impl<R: Report> Observer<R> for Watch<'_> {
    fn step(&mut self, _total: usize, record: &R) {
        self.meter.tick(
            self.ctx,
            record.step() as u64,
            record.samples() as u64,
            &record.fields(),
        );
    }

    fn checkpoint(
        &mut self,
        checkpoint: &Checkpoint<'_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self
            .checkpoints
            .save(self.ctx, checkpoint.step, checkpoint.model)?)
    }

    fn should_stop(&mut self) -> bool {
        self.ctx.interrupted() || self.saved.elapsed() >= self.pause
    }
}

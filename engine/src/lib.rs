//! The engine: specs, axes, DAG, plan, keys, scheduler, worker processes, run journal.
//!
//! It knows nothing of images, rewards or tensors: what computes is a [`stage::Stage`].

//! Modules use only those that stand before them here:
//!
//! | module | what |
//! |---|---|
//! | [`text`], [`units`], `lines`, [`provenance`] | text made safe to show; times and sizes; lines of other processes; which program on which machine |
//! | [`stage`] | what stage authors and workers see |
//! | [`command`] | any program as a stage |
//! | [`study`] | a spec after resolution |
//! | [`diagnostic`], [`spec`], [`schema`] | from the text of a spec to a study, with every mistake in it |
//! | [`record`] | what is known of the execution behind a result |
//! | [`key`] | what decides a stage's bytes |
//! | [`plan`], [`keep`] | what a run would do; what a collection of garbage must keep |
//! | [`journal`] | what happened in runs |
//! | [`worker`] | the process that runs one stage |
//! | [`run`] | the scheduler and the executors |
//! | [`why`], [`lockfile`], [`results`] | what comes of it, for people |

pub mod command;
pub mod diagnostic;
pub mod journal;
pub mod keep;
pub mod key;
mod lines;
pub mod lockfile;
pub mod plan;
pub mod provenance;
pub mod record;
pub mod results;
pub mod run;
pub mod schema;
pub mod spec;
pub mod stage;
pub mod study;
pub mod text;
pub mod units;
pub mod why;
pub mod worker;

//! Which stages may run now, and what of a machine they get.

use super::error::RunError;
use crate::plan::Plan;
use crate::stage::Registry;
use crate::study::{Node, Study};

/// A stage that asks to run.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The stage, with what it asks for.
    pub node: &'a Node,
    /// Its kind computes on the run's device.
    pub numeric: bool,
}

/// What one stage was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The device that it computes on.
    pub device: String,
    /// All accelerators that are its own while it runs; none where somebody else shares them out.
    pub accelerators: Vec<String>,
    /// Bytes of memory that are kept for it.
    pub memory: u64,
}

/// Shares out what stages run on. Made for one run by its [`super::Executor`], and asked by one thread.
pub trait Admission {
    /// Stages that may run at once.
    fn jobs(&self) -> usize;

    /// Whether the stage has to wait for an accelerator.
    fn needs_accelerator(&self, ask: Ask<'_>) -> bool;

    /// Whether an accelerator is free.
    fn has_accelerator(&self) -> bool;

    /// A share for the stage, or none while others have what it needs.
    fn admit(&mut self, ask: Ask<'_>) -> Option<Share>;

    /// Takes back what a stage has used.
    fn give_back(&mut self, share: Share);

    /// Threads for a stage that starts while `active` stages, itself included, run or could start now.
    fn threads_for(&self, node: &Node, active: usize) -> usize;

    /// Into how many shards a stage is cut that starts while `active` stages, itself included, run or could start now.
    fn shards_for(&self, ask: Ask<'_>, active: usize) -> u32;

    /// Whether everything that the plan has to run can run at all.
    ///
    /// # Errors
    /// [`RunError::NoRoom`] for the first stage that would wait for ever.
    fn check(&self, study: &Study, registry: &Registry, plan: &Plan) -> Result<(), RunError>;
}

//! How much memory a model takes, in training and when it writes answers.
//!
//! Nothing here is fitted: a model says which values each of its steps keeps for the backward pass, as the fused
//! operations keep them ([`Step`]), and this module adds up what is alive at the same time. `docs/memory.md` has the
//! formulas.

mod footprint;
mod generation;
mod process;
mod step;
mod trained;
mod update;

pub use footprint::{Batch, F32, Footprint, Tokens};
pub use generation::{Generation, generate};
pub use process::{freed, process};
pub use step::{Attention, Linear, Step};
pub use trained::{Trained, Training};
pub use update::{GRPO_LOSS, Peak, SFT_LOSS, Update, train};

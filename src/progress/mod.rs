//! What is to be seen of a run while it goes on: bars on a terminal, plain lines elsewhere.

mod bars;
mod lines;
mod words;

use dcsft_engine::journal::RunEvent;
use dcsft_engine::run::Reporter;

use crate::terminal::Terminal;

pub(crate) use bars::Bars;
pub(crate) use lines::Lines;

/// The reporter that fits the terminal.
pub(crate) fn reporter(terminal: Terminal) -> Box<dyn Reporter> {
    if terminal.quiet {
        return Box::new(|_: &RunEvent| {});
    }
    if terminal.bars {
        Box::new(Bars::new(terminal))
    } else {
        Box::new(Lines::new(terminal))
    }
}

//! A `dcsft` with the stage kind `majority` and the reward `starts_with`.

mod majority;
mod starts_with;

use std::process::ExitCode;

use dcsft_engine::stage::Registry;

fn main() -> ExitCode {
    dcsft_stages::reward::add(&starts_with::StartsWith);
    dcsft::main_with(kinds)
}

fn kinds() -> Registry {
    dcsft_stages::registry().with::<majority::Majority>()
}

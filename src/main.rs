//! The program `dcsft`: its stage kinds are those of `dcsft-stages`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dcsft::main_with(dcsft_stages::registry)
}

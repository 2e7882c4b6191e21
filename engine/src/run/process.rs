//! Stopping a worker together with everything it started.

use std::process::{Child, Command};

/// Makes the process that `command` starts the leader of a process group of its own: Ctrl-C in the terminal then
/// reaches the run alone, which stops its workers in order.
pub(super) fn own_group(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}

/// Asks the worker's group to end.
pub(super) fn terminate(child: &mut Child) {
    #[cfg(unix)]
    signal(child, nix::sys::signal::Signal::SIGTERM);
    #[cfg(not(unix))]
    kill(child);
}

/// Ends the worker's group at once.
pub(super) fn kill(child: &mut Child) {
    #[cfg(unix)]
    signal(child, nix::sys::signal::Signal::SIGKILL);
    // It may have ended by itself meanwhile.
    let _ = child.kill();
}

#[cfg(unix)]
fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may have ended by itself meanwhile.
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), signal);
    }
}

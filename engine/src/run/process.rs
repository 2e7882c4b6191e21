//! A worker together with everything it starts: its process group.

use std::io;
use std::process::{Child, ChildStdout, Command, ExitStatus};

/// A child that leads a process group of its own, and does not outlive this value, whichever way that ends.
///
/// A group's number is its leader's. Once the leader has been waited for, the number may become another process's; so
/// the group is signalled before that, and never after.
pub(super) struct Group {
    leader: Child,
    status: Option<ExitStatus>,
}

impl Group {
    /// Starts the command. Ctrl-C in the terminal then reaches the run alone, which stops its workers in order.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        Ok(Self {
            leader: command.spawn()?,
            status: None,
        })
    }

    /// The leader's stdout, once.
    pub(super) fn stdout(&mut self) -> Option<ChildStdout> {
        self.leader.stdout.take()
    }

    /// The leader's status if it has ended; what it left behind is ended then too.
    pub(super) fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_some() || !self.has_ended()? {
            return Ok(self.status);
        }
        self.kill();
        self.status = Some(self.leader.wait()?);
        Ok(self.status)
    }

    /// Asks the group to end.
    pub(super) fn terminate(&mut self) {
        #[cfg(unix)]
        self.signal(nix::sys::signal::Signal::SIGTERM);
        #[cfg(not(unix))]
        self.kill();
    }

    /// Ends the group at once.
    pub(super) fn kill(&mut self) {
        #[cfg(unix)]
        self.signal(nix::sys::signal::Signal::SIGKILL);
        #[cfg(not(unix))]
        let _ = self.leader.kill();
    }

    /// Makes the group stand still, or go on.
    pub(super) fn hold(&mut self, still: bool) {
        #[cfg(unix)]
        self.signal(if still {
            nix::sys::signal::Signal::SIGSTOP
        } else {
            nix::sys::signal::Signal::SIGCONT
        });
        #[cfg(not(unix))]
        let _ = still;
    }

    #[cfg(unix)]
    fn signal(&self, signal: nix::sys::signal::Signal) {
        if self.status.is_none()
            && let Ok(pid) = i32::try_from(self.leader.id())
        {
            // It may have ended by itself meanwhile.
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    /// Whether the leader has ended, without taking its number away from it.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn has_ended(&mut self) -> io::Result<bool> {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let Ok(pid) = i32::try_from(self.leader.id()) else {
            return Ok(true);
        };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(nix::unistd::Pid::from_raw(pid)), flags) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::EINTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the system cannot be asked without waiting for the leader, the group is not signalled after its end.
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    fn has_ended(&mut self) -> io::Result<bool> {
        self.status = self.leader.try_wait()?;
        Ok(self.status.is_some())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
            let _ = self.leader.wait();
        }
    }
}

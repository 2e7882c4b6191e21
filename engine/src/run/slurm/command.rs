//! Slurm's commands: what they are told and what they say.

use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::ticket::Ticket;

/// What of the environment a job gets. The login environment, which Slurm would load otherwise, is another one than that
/// in which the run was started, and all of it would make jobs depend on whatever is set there.
const ENVIRONMENT: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "SLURM_CONF",
    "DCSFT_LOG",
];

/// A cluster whose commands are there.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    user: String,
}

/// Why a job was not submitted.
#[derive(Debug)]
pub(super) enum Refused {
    /// The cluster does not answer; it may later.
    NoAnswer(String),
    /// It answers and will not take it.
    Wrong(String),
}

/// A line of `squeue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) index: u32,
    /// `PENDING`, `RUNNING`, `NODE_FAIL`.
    pub(super) state: String,
    pub(super) node: String,
    pub(super) reason: String,
}

impl Cluster {
    /// # Errors
    /// If `sbatch` cannot be run.
    pub(super) fn find() -> io::Result<Self> {
        for program in ["sbatch", "squeue", "scancel"] {
            let found = Command::new(program)
                .arg("--version")
                .stdin(Stdio::null())
                .output();
            if let Err(error) = found {
                let message = format!("Slurm's `{program}` cannot be run on this machine: {error}");
                return Err(io::Error::new(error.kind(), message));
            }
        }
        let id = Command::new("id").arg("-un").output()?;
        let user = String::from_utf8_lossy(&id.stdout).trim().to_owned();
        Ok(Self { user })
    }

    /// Submits a script as an array of `tasks`; the array's number.
    pub(super) fn submit(
        &self,
        script: &Path,
        name: &str,
        tasks: usize,
        flags: &[String],
    ) -> Result<u64, Refused> {
        let mut command = Command::new("sbatch");
        command.env_clear();
        command.envs(ENVIRONMENT.iter().filter_map(|name| {
            let value = std::env::var_os(name)?;
            Some((name, value))
        }));
        // Everything that is left.
        command
            .args(["--parsable", "--export=ALL", "--no-requeue"])
            .arg(format!("--job-name={name}"))
            .arg(format!("--array=1-{tasks}"))
            .args(["--output=/dev/null", "--error=/dev/null"])
            .args(flags)
            .arg(script);
        let output = run(&mut command).map_err(|error| Refused::NoAnswer(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if !output.status.success() {
            return Err(if is_passing(&said) {
                Refused::NoAnswer(said)
            } else {
                Refused::Wrong(said)
            });
        }
        let text = String::from_utf8_lossy(&output.stdout);
        // `123`, or `123;cluster`.
        let number = text.trim().split(';').next().unwrap_or_default();
        number
            .parse()
            .map_err(|_| Refused::NoAnswer(format!("sbatch said {:?}", text.trim())))
    }

    /// All jobs of this user, ended ones too as long as the cluster remembers them.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) fn jobs(&self) -> io::Result<Vec<Row>> {
        let mut command = Command::new("squeue");
        command.args([
            "--noheader",
            "--array",
            "--states=all",
            "--format=%j|%K|%T|%N|%r",
        ]);
        command.arg(format!("--user={}", self.user));
        let output = run(&mut command)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(io::Error::other(said));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter_map(row).collect())
    }

    /// The number of the array with this name, for a submission whose answer got lost.
    ///
    /// # Errors
    /// If the cluster does not answer.
    pub(super) fn number_of(&self, name: &str) -> io::Result<Option<u64>> {
        let mut command = Command::new("squeue");
        command.args(["--noheader", "--states=all", "--format=%F"]);
        command.arg(format!("--name={name}"));
        let output = run(&mut command)?;
        if !output.status.success() {
            return Err(io::Error::other("squeue failed"));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().find_map(|line| line.trim().parse().ok()))
    }

    /// Ends a task, known by its array's name and its number there: the number alone may be another job's by now.
    ///
    /// # Errors
    /// If the cluster does not answer.
    pub(super) fn cancel(&self, ticket: &Ticket) -> io::Result<()> {
        let job = match ticket.job {
            // Whoever submitted it died before it was told the number.
            0 => match self.number_of(&ticket.name)? {
                Some(job) => job,
                None => return Ok(()),
            },
            job => job,
        };
        let mut command = Command::new("scancel");
        command
            .arg(format!("--name={}", ticket.name))
            .arg(format!("{job}_{}", ticket.index));
        let output = run(&mut command)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(io::Error::other(format!("scancel: {said}")))
    }
}

fn run(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).output()
}

/// Whether an error of Slurm's is one that passes: the controller is down or busy.
fn is_passing(said: &str) -> bool {
    let passing = [
        "Unable to contact",
        "Socket timed out",
        "Connection refused",
        "Connection timed out",
        "temporarily",
        "Communication connection failure",
        "Zero Bytes were transmitted",
        "Transport endpoint",
        "backup controller",
        "Resource temporarily unavailable",
    ];
    passing.iter().any(|words| said.contains(words))
}

fn row(line: &str) -> Option<Row> {
    let mut fields = line.split('|');
    let mut field = || fields.next().map(|field| field.trim().to_owned());
    Some(Row {
        name: field()?,
        index: field()?.parse().ok()?,
        state: field()?,
        node: field()?,
        reason: field()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_squeue_are_read() {
        let read = row("dcsft-sft-1f|3|RUNNING|node2|None").unwrap();
        assert_eq!((read.name.as_str(), read.index), ("dcsft-sft-1f", 3));
        assert_eq!(
            (read.state.as_str(), read.node.as_str()),
            ("RUNNING", "node2")
        );
        assert!(row("interactive|N/A|RUNNING|node2|None").is_none());
    }

    #[test]
    fn a_controller_that_is_down_is_no_mistake_of_the_job() {
        let down = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)";
        assert!(is_passing(down));
        assert!(!is_passing(
            "sbatch: error: invalid partition specified: nowhere"
        ));
    }
}

//! What the cluster says of all jobs, asked once for all of them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::command::{Cluster, Row};
use super::ticket::Ticket;

/// What is known of the jobs of this run.
#[derive(Debug)]
pub(super) struct States {
    known: Mutex<Known>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    /// Names of the arrays that somebody follows.
    watched: HashSet<String>,
    rows: HashMap<(String, u32), Row>,
    /// How often the cluster has answered.
    answers: u64,
    ended: bool,
}

/// What the cluster said of a job last.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// None if it does not know it.
    pub(super) row: Option<Row>,
    /// How often it has been asked, in all: two looks with the same number are one.
    pub(super) answers: u64,
}

impl States {
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(cluster: Cluster, poll: Duration) -> io::Result<Arc<Self>> {
        let states = Arc::new(Self {
            known: Mutex::default(),
            woken: Condvar::new(),
        });
        let own = Arc::clone(&states);
        let thread = std::thread::Builder::new().name("squeue".to_owned());
        thread.spawn(move || own.ask_for_ever(&cluster, poll))?;
        Ok(states)
    }

    pub(super) fn watch(&self, name: &str) {
        self.known().watched.insert(name.to_owned());
    }

    pub(super) fn of(&self, ticket: &Ticket) -> Seen {
        let known = self.known();
        Seen {
            row: known
                .rows
                .get(&(ticket.name.clone(), ticket.index))
                .cloned(),
            answers: known.answers,
        }
    }

    pub(super) fn end(&self) {
        self.known().ended = true;
        self.woken.notify_all();
    }

    fn ask_for_ever(&self, cluster: &Cluster, poll: Duration) {
        loop {
            let watched = {
                let known = self.known();
                if known.ended {
                    return;
                }
                known.watched.clone()
            };
            if !watched.is_empty() {
                match cluster.jobs() {
                    Ok(rows) => {
                        let rows = rows.into_iter().filter(|row| watched.contains(&row.name));
                        let rows = rows.map(|row| ((row.name.clone(), row.index), row));
                        let mut known = self.known();
                        known.rows = rows.collect();
                        known.answers += 1;
                    }
                    // What was known stays known: silence says nothing of a job.
                    Err(error) => tracing::debug!("squeue: {error}"),
                }
            }
            let known = self.known();
            let waited = self.woken.wait_timeout(known, poll);
            drop(waited);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

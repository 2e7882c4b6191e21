//! Standing still: while the run is stopped (Ctrl-Z), its workers are too, and no clock runs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Asks the workers of a run to stand still. Shared between whoever hears the signal and the threads that watch the
/// workers.
#[derive(Debug, Default)]
pub struct Pause {
    wanted: AtomicBool,
    workers: AtomicUsize,
    still: AtomicUsize,
}

impl Pause {
    /// Asks all workers, and those that start later, to stand still.
    pub fn begin(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Lets them go on.
    pub fn end(&self) {
        self.wanted.store(false, Ordering::SeqCst);
    }

    /// Whether all workers stand still.
    pub fn is_complete(&self) -> bool {
        self.still.load(Ordering::SeqCst) >= self.workers.load(Ordering::SeqCst)
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Counts a worker for as long as the guard lives.
    pub(super) fn enter(&self) -> Entered<'_> {
        self.workers.fetch_add(1, Ordering::SeqCst);
        Entered {
            pause: self,
            still: false,
        }
    }
}

/// One worker among those that can stand still.
pub(super) struct Entered<'a> {
    pause: &'a Pause,
    still: bool,
}

impl Entered<'_> {
    /// Whether the worker has to change from running to standing still (`Some(true)`) or back (`Some(false)`).
    pub(super) fn change(&self) -> Option<bool> {
        let wanted = self.pause.is_wanted();
        (wanted != self.still).then_some(wanted)
    }

    pub(super) fn is_still(&self) -> bool {
        self.still
    }

    pub(super) fn set(&mut self, still: bool) {
        if still == self.still {
            return;
        }
        self.still = still;
        if still {
            self.pause.still.fetch_add(1, Ordering::SeqCst);
        } else {
            self.pause.still.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.set(false);
        self.pause.workers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A clock that can be stopped.
#[derive(Debug)]
pub(super) struct Clock {
    counted: Duration,
    running: Option<Instant>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            counted: Duration::ZERO,
            running: Some(Instant::now()),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.counted + self.running.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn run(&mut self, run: bool) {
        if run && self.running.is_none() {
            self.running = Some(Instant::now());
        } else if !run {
            self.counted = self.elapsed();
            self.running = None;
        }
    }
}

/// Stops the whole process when the terminal asks for it (Ctrl-Z), its workers first, and lets them go on with it.
///
/// Call it before any other thread starts: the threads of a process share its signals.
///
/// # Errors
/// If the thread that waits for the signal cannot start.
#[cfg(unix)]
pub fn stop_with_terminal(pause: &std::sync::Arc<Pause>) -> std::io::Result<()> {
    use nix::sys::signal::{SigSet, Signal, raise};

    /// How long to wait for workers that do not stop; they are asked within one look of whoever watches them.
    const PATIENCE: Duration = Duration::from_secs(2);

    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTSTP);
    signals.thread_block()?;
    let pause = std::sync::Arc::clone(pause);
    std::thread::Builder::new()
        .spawn(move || {
            while signals.wait().is_ok() {
                pause.begin();
                let asked = Instant::now();
                while !pause.is_complete() && asked.elapsed() < PATIENCE {
                    std::thread::sleep(Duration::from_millis(5));
                }
                // Returns when the process is continued.
                let _ = raise(Signal::SIGSTOP);
                pause.end();
            }
        })
        .map(drop)
}

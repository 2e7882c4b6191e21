//! Threads beside those of the pool.
//!
//! A process's own thread may be one of the pool's, perhaps the only one. Where it waits for a thread beside it, that one may
//! in turn wait for work that it gave to the pool: so whoever waits works for the pool meanwhile.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use rayon::Yield;

/// Between two looks at whether there is something to do.
const PAUSE: Duration = Duration::from_micros(50);

/// Works for the pool until it is `done`; returns at once on a thread that is none of the pool's.
fn work_until(mut done: impl FnMut() -> bool) {
    while !done() {
        match rayon::yield_now() {
            Some(Yield::Executed) => {}
            Some(Yield::Idle) => std::thread::sleep(PAUSE),
            None => return,
        }
    }
}

/// What a thread gives in the end; its panic is this thread's too.
pub fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    work_until(|| thread.is_finished());
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What a thread sends, as it comes.
pub struct Received<T>(pub Receiver<T>);

impl<T> Iterator for Received<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let mut next = None;
        work_until(|| match self.0.try_recv() {
            Ok(sent) => {
                next = Some(sent);
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => true,
        });
        next.or_else(|| self.0.recv().ok())
    }
}

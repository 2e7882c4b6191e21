//! How much memory decoded images take at once, however many threads decode them.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that all decoders of this process take together. One image that takes more is decoded alone.
const MOST: u64 = 2 << 30;

static TAKEN: Mutex<u64> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// A share of the memory, given back when it is dropped.
pub(super) struct Share(u64);

impl Share {
    /// Waits until there are `bytes` left. Whoever holds a share waits for nobody, so this ends.
    pub(super) fn take(bytes: u64) -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = GIVEN_BACK
            .wait_while(taken, |taken| *taken > 0 && *taken + bytes > MOST)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += bytes;
        Self(bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        *taken -= self.0;
        GIVEN_BACK.notify_all();
    }
}

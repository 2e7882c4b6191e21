//! How long to wait before another try.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest pause before a retry.
const LONGEST: Duration = Duration::from_secs(60);

/// The pause after `attempts` failed tries: `first`, doubled each time up to [`LONGEST`], less a random part of up to
/// one half.
pub(super) fn delay(first: Duration, attempts: u32) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1)));
    let longest = doubled.min(LONGEST.max(first));
    // A hasher's keys are random; nothing here has to be drawn again.
    let random = RandomState::new().hash_one(attempts) as f64 / u64::MAX as f64;
    longest.mul_f64(1.0 - random / 2.0)
}

/// Sleeps; false if interrupted.
pub(super) fn sleep(delay: Duration, interrupted: &AtomicBool) -> bool {
    let end = Instant::now() + delay;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        if left.is_zero() || interrupted.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
    !interrupted.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let first = Duration::from_secs(1);
        for (attempts, longest) in [(1, 1), (2, 2), (5, 16), (7, 60), (40, 60), (u32::MAX, 60)] {
            let longest = Duration::from_secs(longest);
            for _ in 0..20 {
                let delay = delay(first, attempts);
                assert!(
                    delay <= longest && delay >= longest / 2,
                    "{attempts}: {delay:?}"
                );
            }
        }
        assert_ne!(delay(first, 9), delay(first, 9));
    }
}

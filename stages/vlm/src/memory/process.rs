//! What a process holds besides what it computes with.

/// A process that computes next to nothing: code, tables and the allocator's first pages. Measured, as are the next
/// two.
const PROCESS: f64 = 18.0 * MIB;
/// What a thread adds that has computed something: its stack, and pages that its allocator keeps.
const THREAD: f64 = 6.0 * MIB;
/// Freed blocks of up to a few MiB stay with the allocator, at most about so many bytes in all.
const SLACK: f64 = 24.0 * MIB;
const MIB: f64 = 1024.0 * 1024.0;
/// The allocator's size classes are up to an eighth apart, and a freed block serves those of its class alone.
pub(super) const CLASSES: f64 = 1.125;

/// Resident bytes of a process besides what it computes with: `threads` that work, and the activations whose freed
/// blocks the allocator may keep.
pub fn process(threads: f64, activations: f64) -> f64 {
    PROCESS + THREAD * threads + freed(2.0 * activations)
}

/// What the allocator keeps of small blocks of so many bytes that were freed.
pub fn freed(bytes: f64) -> f64 {
    SLACK.min(bytes)
}

//! The gaps between dropped inputs.

/// How many inputs stay before the next that is dropped, from a draw in `[0, 1)`: a geometric number, by inversion.
pub(super) fn gap(uniform: f64, log_keep: f64) -> u64 {
    // 1 - u is in (0, 1], so the gap is finite; the cast saturates.
    (libm::log(1.0 - uniform) / log_keep) as u64
}

/// The logarithm of the probability with which an input stays.
pub(super) fn log_keep(probability: f64) -> f64 {
    libm::log1p(-probability)
}

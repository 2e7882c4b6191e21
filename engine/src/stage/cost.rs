//! What a result cost: wall time, and processor time where it is known.

use std::ops::{Add, Div, Mul};

use serde::{Deserialize, Serialize};

/// Seconds of work. Sums know their processor time where all of their parts do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time.
    pub seconds: f64,
    /// Processor time of all threads, user and system; none where it was not measured.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
}

/// Nothing.
impl Default for Cost {
    fn default() -> Self {
        Self {
            seconds: 0.0,
            cpu_seconds: Some(0.0),
        }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            cpu_seconds: self.cpu_seconds.zip(other.cpu_seconds).map(|(a, b)| a + b),
        }
    }
}

impl Mul<f64> for Cost {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self {
            seconds: self.seconds * factor,
            cpu_seconds: self.cpu_seconds.map(|cpu| cpu * factor),
        }
    }
}

impl Div<f64> for Cost {
    type Output = Self;

    fn div(self, divisor: f64) -> Self {
        Self {
            seconds: self.seconds / divisor,
            cpu_seconds: self.cpu_seconds.map(|cpu| cpu / divisor),
        }
    }
}

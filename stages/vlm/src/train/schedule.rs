//! Learning-rate schedules: the factor on the base rate at each optimiser step.
//!
//! The formulas are those of Hugging Face transformers' `get_{constant,linear,cosine}_schedule_with_warmup`
//! and `get_cosine_with_min_lr_schedule_with_warmup`: step `s` (from 0) is taken with `lr * factor(s)`, so the
//! first step of a warm-up has rate 0.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stays at the base rate.
    Constant,
    /// Falls on a straight line to the floor.
    Linear,
    /// Falls on half a cosine to the floor.
    #[default]
    Cosine,
}

/// A schedule with its lengths resolved to steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// Base rate.
    pub base: f64,
    /// Shape after the warm-up.
    pub schedule: Schedule,
    /// Steps of the linear warm-up from 0 to the base rate.
    pub warmup: usize,
    /// Steps of the whole run.
    pub total: usize,
    /// The lowest factor of the decay, as a part of the base rate.
    pub floor: f64,
}

impl LearningRate {
    /// Warm-up length: `steps` where given, else `ratio` of the run, rounded up (as transformers does).
    pub fn warmup_steps(steps: Option<usize>, ratio: f64, total: usize) -> usize {
        steps.unwrap_or_else(|| (ratio * total as f64).ceil() as usize)
    }

    /// The rate of optimiser step `step`, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        self.base * self.factor(step)
    }

    fn factor(&self, step: usize) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / length).min(1.0);
        let decay = match self.schedule {
            Schedule::Constant => return 1.0,
            Schedule::Linear => 1.0 - progress,
            Schedule::Cosine => 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress)),
        };
        self.floor + (1.0 - self.floor) * decay
    }
}

#[cfg(test)]
mod tests {
    use super::{LearningRate, Schedule};

    fn rate(schedule: Schedule, floor: f64) -> LearningRate {
        LearningRate {
            base: 2.0,
            schedule,
            warmup: 4,
            total: 12,
            floor,
        }
    }

    #[test]
    fn the_warm_up_starts_at_zero_and_ends_at_the_base_rate() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            let warm: Vec<f64> = (0..5).map(|step| rate(schedule, 0.1).at(step)).collect();
            assert_eq!(warm, [0.0, 0.5, 1.0, 1.5, 2.0], "{schedule:?}");
        }
    }

    #[test]
    fn decays_pass_their_middle_and_end_at_the_floor() {
        for schedule in [Schedule::Linear, Schedule::Cosine] {
            for (floor, middle) in [(0.0, 1.0), (0.02, 1.02)] {
                let rate = rate(schedule, floor);
                assert!(
                    (rate.at(8) - middle).abs() < 1e-12,
                    "{schedule:?}: {}",
                    rate.at(8)
                );
                assert!((rate.at(12) - 2.0 * floor).abs() < 1e-12);
                assert_eq!(
                    rate.at(40),
                    rate.at(12),
                    "a step past the end has the floor's rate"
                );
            }
        }
        assert_eq!(rate(Schedule::Constant, 0.0).at(11), 2.0);
    }

    #[test]
    fn a_warm_up_ratio_is_rounded_up_and_steps_win_over_it() {
        assert_eq!(LearningRate::warmup_steps(None, 0.1, 25), 3);
        assert_eq!(LearningRate::warmup_steps(Some(0), 0.1, 25), 0);
    }
}

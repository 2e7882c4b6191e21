//! Advantages of groups of answers to the same question, on plain arrays.
//!
//! `advantage = (reward - group mean) / (std + 1e-4)` with the *sample* standard deviation (n - 1), as in TRL
//! 1.16 and ms-swift. A reward of NaN means that the answer could not be scored: it is left out of mean and
//! deviation and its advantage is 0, as is that of a group or batch with fewer than two scored answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the deviation from a group's mean is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScaleRewards {
    /// The standard deviation of the group.
    #[default]
    Group,
    /// The standard deviation of all rewards of the step.
    Batch,
    /// Nothing (Dr. GRPO).
    None,
}

/// Added to the standard deviation, so that equal rewards do not divide by zero.
const STD_FLOOR: f32 = 1e-4;

/// The advantage of each answer; `rewards` holds one group of `generations` answers after the other.
pub fn advantages(rewards: &[f32], generations: usize, scale: ScaleRewards) -> Vec<f32> {
    let batch_std = standard_deviation(rewards);
    rewards
        .chunks(generations)
        .flat_map(|group| {
            let mean = mean(group);
            let std = match scale {
                ScaleRewards::Group => standard_deviation(group),
                ScaleRewards::Batch => batch_std,
                ScaleRewards::None => 0.0,
            };
            group.iter().map(move |reward| {
                let deviation = reward - mean;
                let advantage = match scale {
                    ScaleRewards::Group | ScaleRewards::Batch => deviation / (std + STD_FLOOR),
                    ScaleRewards::None => deviation,
                };
                if advantage.is_nan() { 0.0 } else { advantage }
            })
        })
        .collect()
}

/// What a group of rewards has to teach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    /// Rewards differ: the group has a non-zero advantage.
    Mixed,
    /// All rewards are equal and above 0.
    AllRight,
    /// All rewards are equal and not above 0 (or fewer than two answers could be scored).
    AllWrong,
}

impl GroupKind {
    /// The kind of one group.
    pub fn of(rewards: &[f32]) -> Self {
        let scored = || rewards.iter().copied().filter(|reward| !reward.is_nan());
        let Some(first) = scored().next() else {
            return Self::AllWrong;
        };
        match (scored().all(|reward| reward == first), first > 0.0) {
            (false, _) => Self::Mixed,
            (true, true) => Self::AllRight,
            (true, false) => Self::AllWrong,
        }
    }
}

/// Mean of the scored rewards, NaN if there are none. Summed in double precision and rounded once.
pub fn mean(rewards: &[f32]) -> f32 {
    let (sum, count) = scored(rewards).fold((0.0, 0.0), |(sum, count), reward| {
        (sum + f64::from(reward), count + 1.0)
    });
    (sum / count) as f32
}

/// Sample standard deviation of the scored rewards, NaN for fewer than two.
pub fn standard_deviation(rewards: &[f32]) -> f32 {
    let mean = mean(rewards);
    let (squares, count) = scored(rewards).fold((0.0, 0.0), |(squares, count), reward| {
        let deviation = f64::from(reward - mean);
        (squares + deviation * deviation, count + 1.0)
    });
    if count < 2.0 {
        f32::NAN
    } else {
        libm::sqrt(squares / (count - 1.0)) as f32
    }
}

fn scored(rewards: &[f32]) -> impl Iterator<Item = f32> {
    rewards.iter().copied().filter(|reward| !reward.is_nan())
}

#[cfg(test)]
mod tests {
    use super::{GroupKind, ScaleRewards, advantages};

    #[test]
    fn groups_of_equal_rewards_have_zero_advantage() {
        for scale in [ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None] {
            let all = advantages(&[1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.0, 1.0, 0.0], 3, scale);
            assert_eq!(all[..6], [0.0; 6]);
            assert!(all[7] > 0.0 && all[6] < 0.0);
        }
    }

    #[test]
    fn an_answer_that_cannot_be_scored_has_no_advantage() {
        let all = advantages(
            &[1.0, f32::NAN, 0.0, f32::NAN, 1.0, f32::NAN],
            3,
            ScaleRewards::Group,
        );
        assert_eq!([all[1], all[3], all[4], all[5]], [0.0; 4]);
        assert!(all[0] > 0.7 && all[2] < -0.7);
    }

    #[test]
    fn a_group_is_mixed_all_right_or_all_wrong() {
        assert_eq!(GroupKind::of(&[0.0, 1.0]), GroupKind::Mixed);
        assert_eq!(GroupKind::of(&[0.5, 0.5, f32::NAN]), GroupKind::AllRight);
        assert_eq!(GroupKind::of(&[0.0, 0.0]), GroupKind::AllWrong);
        assert_eq!(GroupKind::of(&[f32::NAN]), GroupKind::AllWrong);
    }
}

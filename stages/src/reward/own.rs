//! Rewards that another crate adds to a program of its own.

use std::sync::RwLock;

use serde::{Deserialize, Deserializer, Serialize};

use super::RewardError;

/// A reward of another crate's. Scores are pure functions of the two texts.
pub trait OwnReward: Send + Sync {
    /// The name in specs: `reward: NAME`.
    fn name(&self) -> &'static str;

    /// Part of every key: raise it when an answer is worth something else than before.
    fn version(&self) -> u32;

    /// What `completion` is worth where `answer` is right; 1 is right. Both are in one Unicode form (NFC) where stages
    /// score.
    fn score(&self, completion: &str, answer: &str) -> f32;

    /// Whether `completion` has the form that answers have. Anything does that is not empty.
    fn fits(&self, completion: &str) -> bool {
        !completion.trim().is_empty()
    }
}

static ADDED: RwLock<Vec<&'static dyn OwnReward>> = RwLock::new(Vec::new());

/// Makes a reward known under its name, before anything is read that may name it. Of two with one name the later one
/// counts; the names of the rewards that are here are theirs.
pub fn add(reward: &'static dyn OwnReward) {
    if let Ok(mut added) = ADDED.write() {
        added.retain(|known| known.name() != reward.name());
        added.push(reward);
    }
}

/// The names of the rewards that were added.
pub(super) fn names() -> Vec<&'static str> {
    let added = ADDED.read();
    added.map_or_else(
        |_| Vec::new(),
        |added| added.iter().map(|reward| reward.name()).collect(),
    )
}

/// A reward that was added, as keys and jobs have it.
#[derive(Clone, Copy, Serialize)]
pub struct Own {
    name: &'static str,
    version: u32,
    #[serde(skip)]
    reward: &'static dyn OwnReward,
}

impl Own {
    /// The reward called `name`.
    pub(super) fn find(name: &str) -> Option<Self> {
        let added = ADDED.read().ok()?;
        let reward = *added.iter().find(|reward| reward.name() == name)?;
        Some(Self {
            name: reward.name(),
            version: reward.version(),
            reward,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn score(&self, completion: &str, answer: &str) -> f32 {
        self.reward.score(completion, answer)
    }

    pub(super) fn fits(&self, completion: &str) -> bool {
        self.reward.fits(completion)
    }

    /// Whether the right answer is right by its own reward.
    pub(super) fn check(&self, answer: &str) -> Result<(), RewardError> {
        if self.score(answer, answer) >= 1.0 {
            Ok(())
        } else {
            Err(RewardError::NeverRight(answer.to_owned()))
        }
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (version {})", self.name, self.version)
    }
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        (self.name, self.version) == (other.name, other.version)
    }
}

/// As it was planned: a program that knows another version of it cannot do the job.
impl<'de> Deserialize<'de> for Own {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Planned {
            name: String,
            version: u32,
        }
        let Planned { name, version } = Planned::deserialize(deserializer)?;
        let own = Self::find(&name);
        own.filter(|own| own.version == version).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "this program has no reward `{name}` of version {version}"
            ))
        })
    }
}

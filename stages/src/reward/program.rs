//! Rewards that a program of the user's gives, and the one way to score that suits all rewards.

use std::path::Path;
use std::sync::Mutex;

use dcsft_engine::command::Filter;
use serde::Serialize;

use super::Reward;

/// Answers that a program is given at once.
const BATCH: usize = 256;

/// An answer with what it is an answer to: a line for a program.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Asked<'a> {
    /// The sample's content ID.
    pub id: &'a str,
    /// The question.
    pub prompt: &'a str,
    /// What the model answered.
    pub completion: &'a str,
    /// The right answer.
    pub answer: &'a str,
}

/// A reward that is ready to score: where it is a program, that runs.
pub struct Grader<'a> {
    reward: &'a Reward,
    program: Option<Mutex<Filter>>,
}

impl<'a> Grader<'a> {
    /// Starts the reward's program, if it is one, in the folder `work`; relative paths of its files are relative to
    /// `root`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(reward: &'a Reward, work: &Path, root: &Path) -> Result<Self, String> {
        let program = match reward {
            Reward::Program(program) => {
                let filter = program.start(work, root).map_err(|error| words(&error))?;
                Some(Mutex::new(filter))
            }
            _ => None,
        };
        Ok(Self { reward, program })
    }

    /// The rewards of answers, in their order.
    ///
    /// # Errors
    /// If the program gives none, or something that is no number.
    pub fn grade(&self, asked: &[Asked<'_>]) -> Result<Vec<f32>, String> {
        let Some(program) = &self.program else {
            let grade = |asked: &Asked<'_>| self.reward.grade(asked.completion, asked.answer);
            return Ok(asked.iter().map(grade).collect());
        };
        let mut program = program
            .lock()
            .map_err(|_| "its program is lost".to_owned())?;
        let mut rewards = Vec::with_capacity(asked.len());
        for batch in asked.chunks(BATCH) {
            let lines = program.ask(batch).map_err(|error| words(&error))?;
            for (asked, line) in batch.iter().zip(lines) {
                rewards.push(number(&line).ok_or_else(|| {
                    format!(
                        "the reward's program said {line:?} of an answer to the sample {}: it is to say a number",
                        asked.id
                    )
                })?);
            }
        }
        Ok(rewards)
    }

    /// The reward of one answer.
    ///
    /// # Errors
    /// As [`Grader::grade`].
    pub fn one(&self, asked: Asked<'_>) -> Result<f32, String> {
        let rewards = self.grade(&[asked])?;
        rewards
            .first()
            .copied()
            .ok_or_else(|| "there is no reward".to_owned())
    }

    /// Ends the program.
    ///
    /// # Errors
    /// If it has said more than it was asked.
    pub fn finish(self) -> Result<(), String> {
        match self.program.map(Mutex::into_inner) {
            Some(Ok(program)) => program.finish().map_err(|error| words(&error)),
            _ => Ok(()),
        }
    }
}

fn words(error: &dyn std::fmt::Display) -> String {
    format!("the reward's program: {error}")
}

fn number(line: &str) -> Option<f32> {
    line.parse::<f32>().ok().filter(|value| value.is_finite())
}

//! Whether an answer has the form that a set's answers have, right or wrong.

use std::collections::BTreeSet;

use crate::data::Sample;
use crate::reward::{Extraction, Reward, normalise};

/// The form of a set's answers under a reward.
///
/// With `exact`, `regex` and `choice` an answer has it if it would be right for some sample of the set; with `iou`
/// and `numeric` if it holds a box or a number.
pub(super) struct Form<'a> {
    reward: &'a Reward,
    /// Right answers: as written for `choice`, else normalised.
    answers: BTreeSet<String>,
}

impl<'a> Form<'a> {
    pub(super) fn new(reward: &'a Reward, samples: &[Sample]) -> Self {
        let answer = |sample: &Sample| match reward {
            Reward::Choice => sample.answer.clone(),
            _ => normalise(&sample.answer),
        };
        Self {
            reward,
            answers: samples.iter().map(answer).collect(),
        }
    }

    /// Whether `text` has the form.
    pub(super) fn fits(&self, text: &str) -> bool {
        match self.reward {
            Reward::Exact => self.answers.contains(&normalise(text)),
            Reward::Regex(Extraction { pattern }) => pattern
                .find(text)
                .is_some_and(|found| self.answers.contains(&normalise(found))),
            Reward::Choice => self
                .answers
                .iter()
                .any(|answer| self.reward.score(text, answer) >= 1.0),
            Reward::Iou(_) | Reward::Numeric(_) => self.reward.check(text).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Form;
    use crate::data::Sample;
    use crate::reward::Reward;

    fn samples(answers: &[&str]) -> Vec<Sample> {
        let sample = |answer: &&str| Sample {
            id: (*answer).to_owned(),
            prompt: String::new(),
            answer: (*answer).to_owned(),
            images: Vec::new(),
            meta: Default::default(),
        };
        answers.iter().map(sample).collect()
    }

    fn reward(text: &str) -> Reward {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_answer_of_another_sample_has_the_form_and_a_caption_does_not() {
        let (samples, reward) = (samples(&["Red", "blue."]), reward(r#""exact""#));
        let form = Form::new(&reward, &samples);
        assert!(form.fits("red") && form.fits(" Blue"));
        assert!(!form.fits("red on sea") && !form.fits("") && !form.fits("green"));
    }

    #[test]
    fn boxes_numbers_options_and_patterns_have_their_forms() {
        let check = |name: &str, answers: &[&str], good: &str, bad: &str| {
            let (samples, reward) = (samples(answers), reward(name));
            let form = Form::new(&reward, &samples);
            assert!(form.fits(good) && !form.fits(bad), "{name}");
        };
        check(
            r#""iou""#,
            &["[1, 2, 30, 40]"],
            "it is at [5, 6, 7, 8]",
            "on the left",
        );
        check(r#""numeric""#, &["4"], "about 17", "a few");
        check(r#""choice""#, &["A", "B"], "(b)", "D");
        check(
            r#"{"regex": {"pattern": "<a>(.*?)</a>"}}"#,
            &["red", "blue"],
            "so <a>Blue</a>",
            "blue",
        );
    }
}

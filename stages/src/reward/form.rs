//! Whether an answer has the form that a set's answers have, right or wrong.

use std::collections::BTreeSet;

use super::choice::{self, Choice};
use super::{Extraction, Reward, boxes, compose, normalise, number};

/// The form of a set's answers under a reward.
///
/// With `exact`, `regex` and `choice` an answer has it if it would be right for some sample of the set; with `iou`
/// and `numeric` if it holds a box or a number that can be read, and with `program` if there is anything in it.
pub struct Form<'a> {
    reward: &'a Reward,
    /// Right answers, normalised.
    texts: BTreeSet<String>,
    /// Right options, for `choice`.
    options: BTreeSet<Choice>,
}

impl<'a> Form<'a> {
    /// The form of answers whose right ones are `answers`.
    pub fn new<'t>(reward: &'a Reward, answers: impl Iterator<Item = &'t str>) -> Self {
        let mut form = Self {
            reward,
            texts: BTreeSet::new(),
            options: BTreeSet::new(),
        };
        for answer in answers {
            let answer = compose(answer);
            match reward {
                Reward::Choice => drop(form.options.insert(choice::read(&answer))),
                Reward::Regex(Extraction { pattern }) => {
                    let expected = pattern.find(&answer).unwrap_or(&answer);
                    form.texts.insert(normalise(expected));
                }
                Reward::Exact => drop(form.texts.insert(normalise(&answer))),
                Reward::Iou(_) | Reward::Numeric(_) | Reward::Program(_) | Reward::Own(_) => break,
            }
        }
        form
    }

    /// Whether `text` has the form.
    pub fn fits(&self, text: &str) -> bool {
        let text = &*compose(text);
        match self.reward {
            Reward::Exact => self.texts.contains(&normalise(text)),
            Reward::Regex(Extraction { pattern }) => pattern
                .find(text)
                .is_some_and(|found| self.texts.contains(&normalise(found))),
            Reward::Choice => {
                let found = choice::read(text);
                self.options.iter().any(|option| found.names(option))
            }
            Reward::Iou(settings) => boxes::has(text, settings.notation),
            Reward::Numeric(_) => number::has(text),
            Reward::Program(_) => !text.trim().is_empty(),
            Reward::Own(own) => own.fits(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Form;
    use crate::reward::Reward;

    fn reward(text: &str) -> Reward {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_answer_of_another_sample_has_the_form_and_a_caption_does_not() {
        let reward = reward(r#""exact""#);
        let form = Form::new(&reward, ["Red", "blue."].into_iter());
        assert!(form.fits("red") && form.fits(" Blue"));
        assert!(!form.fits("red on sea") && !form.fits("") && !form.fits("green"));
    }

    #[test]
    fn boxes_numbers_options_and_patterns_have_their_forms() {
        let check = |name: &str, answers: &[&str], good: &str, bad: &str| {
            let reward = reward(name);
            let form = Form::new(&reward, answers.iter().copied());
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
            &["red", "<a>blue</a>"],
            "so <a>Blue</a>",
            "blue",
        );
    }
}

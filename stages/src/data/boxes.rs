//! Boxes in questions and answers: the frame that a list has them in, and where they are in what a model sees.
//!
//! Qwen2.5-VL sees an image resized, and is trained to name boxes in the pixels of that. ms-swift moves the boxes of its
//! grounding lists there and rounds them (`Template.normalize_bbox` with `norm_bbox = 'none'`).

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Four numbers in brackets.
static BOX: LazyLock<Regex> = LazyLock::new(|| {
    let number = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*";
    Regex::new(&format!(r"\[{number},{number},{number},{number}\]")).expect("a constant pattern")
});

/// What the numbers of a box count from the image's top left corner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    /// Pixels of the image as its file has it.
    #[default]
    Original,
    /// Pixels of the image as the model sees it: boxes are right as they are.
    Resized,
    /// Shares of the image's width and height, from 0 to 1.
    Unit,
    /// Thousandths of the image's width and height, from 0 to 1000.
    Thousandths,
}

/// How the sides of boxes are written in what a model is trained on. Rewards compare the exact ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sides {
    /// Rounded to whole numbers, halves to the even one: ms-swift.
    #[default]
    Round,
    /// Cut off after the point: the paper's lists.
    Truncate,
    /// As they come out.
    Exact,
}

/// What the boxes of a list are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Boxes {
    /// What their numbers count.
    pub frame: Frame,
    /// How they are written in training.
    #[serde(default)]
    pub sides: Sides,
}

/// An image's size in its file and as a model sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Width and height as the file has them.
    pub original: (u32, u32),
    /// Width and height as the model sees them.
    pub seen: (u32, u32),
    /// It is shown mirrored left to right.
    pub mirrored: bool,
}

/// A box may stand out of its frame by this share of it, and two pixels: annotations do.
const SLACK: f64 = 0.02;

impl Boxes {
    /// The text with its boxes as a model is to see or write them.
    pub fn to_train<'a>(&self, text: &'a str, view: &View) -> Cow<'a, str> {
        self.moved(text, view, self.sides)
    }

    /// The text with its boxes as answers are compared with them.
    pub fn to_score<'a>(&self, text: &'a str, view: &View) -> Cow<'a, str> {
        self.moved(text, view, Sides::Exact)
    }

    fn moved<'a>(&self, text: &'a str, view: &View, sides: Sides) -> Cow<'a, str> {
        let (across, down) = self.scale(view);
        let stays = across == 1.0 && down == 1.0 && !view.mirrored;
        if stays && sides == Sides::Exact {
            return Cow::Borrowed(text);
        }
        let width = f64::from(view.seen.0);
        BOX.replace_all(text, |found: &Captures<'_>| {
            let [x1, y1, x2, y2] = numbers(found);
            let (x1, y1, x2, y2) = (x1 * across, y1 * down, x2 * across, y2 * down);
            let (x1, x2) = if view.mirrored {
                (width - x2, width - x1)
            } else {
                (x1, x2)
            };
            let written = [x1, y1, x2, y2].map(|side| write(side, sides));
            format!("[{}]", written.join(", "))
        })
    }

    /// What the frame's numbers are multiplied by.
    fn scale(&self, view: &View) -> (f64, f64) {
        let (width, height) = (f64::from(view.seen.0), f64::from(view.seen.1));
        match self.frame {
            Frame::Resized => (1.0, 1.0),
            Frame::Original => (
                width / f64::from(view.original.0),
                height / f64::from(view.original.1),
            ),
            Frame::Unit => (width, height),
            Frame::Thousandths => (width / 1000.0, height / 1000.0),
        }
    }

    /// Whether the boxes of `text` lie in their frame, of an image of this size (width, height); with `required` there
    /// has to be one.
    ///
    /// # Errors
    /// Says which does not.
    pub fn check(&self, text: &str, size: (u32, u32), required: bool) -> Result<(), String> {
        if required && !BOX.is_match(text) {
            return Err(format!(
                "the answer {text:?} has no box; write it as [x1, y1, x2, y2]"
            ));
        }
        let (most, name) = match self.frame {
            Frame::Resized => return Ok(()),
            Frame::Original => (
                (f64::from(size.0), f64::from(size.1)),
                format!("{} x {} pixels", size.0, size.1),
            ),
            Frame::Unit => ((1.0, 1.0), "0 to 1".to_owned()),
            Frame::Thousandths => ((1000.0, 1000.0), "0 to 1000".to_owned()),
        };
        let slack = |most: f64| match self.frame {
            Frame::Unit => SLACK,
            _ => most * SLACK + 2.0,
        };
        let inside = |side: f64, most: f64| (-slack(most)..=most + slack(most)).contains(&side);
        for found in BOX.captures_iter(text) {
            let [x1, y1, x2, y2] = numbers(&found);
            let across = inside(x1, most.0) && inside(x2, most.0);
            if !across || !inside(y1, most.1) || !inside(y2, most.1) {
                return Err(format!(
                    "the box {} does not lie in {name}; is the `frame` of `boxes` another?",
                    &found[0]
                ));
            }
        }
        Ok(())
    }
}

/// Whether a text is a box and nothing else.
pub fn is_box(text: &str) -> bool {
    let text = text.trim();
    BOX.find(text)
        .is_some_and(|found| found.len() == text.len())
}

/// The four numbers of a match: the pattern lets nothing else through.
fn numbers(found: &Captures<'_>) -> [f64; 4] {
    [1, 2, 3, 4].map(|group| found[group].parse().unwrap_or(f64::NAN))
}

/// A side with at most four digits after the point.
fn write(side: f64, sides: Sides) -> String {
    let side = match sides {
        Sides::Round => side.round_ties_even(),
        Sides::Truncate => side.trunc(),
        Sides::Exact => (side * 1e4).round_ties_even() / 1e4,
    };
    // No "-0".
    (side + 0.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Boxes, Frame, Sides, View, is_box};

    fn view(original: (u32, u32), seen: (u32, u32), mirrored: bool) -> View {
        View {
            original,
            seen,
            mirrored,
        }
    }

    #[test]
    fn a_box_of_every_frame_is_moved_to_the_same_place() {
        let seen = view((1120, 840), (252, 168), false);
        for (frame, text) in [
            (Frame::Original, "[560, 420, 1120, 840]"),
            (Frame::Unit, "[0.5,0.5,1.0,1]"),
            (Frame::Thousandths, "[500, 500, 1000, 1e3]"),
            (Frame::Resized, "[126, 84, 252.4, 168]"),
        ] {
            let boxes = Boxes {
                frame,
                sides: Sides::Round,
            };
            let text = format!("at {text}.");
            assert_eq!(
                boxes.to_train(&text, &seen),
                "at [126, 84, 252, 168].",
                "{frame:?}"
            );
        }
    }

    #[test]
    fn sides_are_rounded_cut_off_or_kept_in_training_and_exact_in_rewards() {
        let half = view((100, 100), (50, 50), false);
        let train = |sides| {
            let frame = Frame::Original;
            let boxes = Boxes { frame, sides };
            assert_eq!(
                boxes.to_score("[1, 3, 99.9, 50]", &half),
                "[0.5, 1.5, 49.95, 25]"
            );
            boxes.to_train("[1, 3, 99.9, 50]", &half).into_owned()
        };
        assert_eq!(train(Sides::Round), "[0, 2, 50, 25]");
        assert_eq!(train(Sides::Truncate), "[0, 1, 49, 25]");
        assert_eq!(train(Sides::Exact), "[0.5, 1.5, 49.95, 25]");
    }

    #[test]
    fn a_mirrored_box_keeps_its_left_side_first() {
        let boxes = Boxes::default();
        let mirrored = view((56, 56), (56, 56), true);
        assert_eq!(
            boxes.to_train("[4, 10, 20, 40]", &mirrored),
            "[36, 10, 52, 40]"
        );
    }

    #[test]
    fn boxes_outside_their_frame_are_told() {
        let check = |frame, text| {
            let boxes = Boxes {
                frame,
                sides: Sides::Round,
            };
            boxes.check(text, (56, 40), true)
        };
        assert!(check(Frame::Original, "[0, 0, 57, 41]").is_ok());
        assert!(
            check(Frame::Original, "[0, 0, 560, 40]")
                .unwrap_err()
                .contains("56 x 40 pixels")
        );
        assert!(check(Frame::Unit, "[0.1, 0.2, 1, 1.01]").is_ok());
        assert!(
            check(Frame::Unit, "[10, 20, 30, 40]")
                .unwrap_err()
                .contains("0 to 1")
        );
        assert!(check(Frame::Thousandths, "[0, 0, 999, 1200]").is_err());
        assert!(
            check(Frame::Original, "left")
                .unwrap_err()
                .contains("no box")
        );
        assert!(is_box(" [1, 2, 3, 4]\n") && !is_box("[1, 2, 3, 4] and") && !is_box("[1, 2, 3]"));
    }
}

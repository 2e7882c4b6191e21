//! Right answers that are boxes of which nobody said in which frame they stand.

use dcsft_engine::stage::{StageContext, StageError};
use dcsft_vlm::model::VisionLanguageModel;
use dcsft_vlm::train::augment::Augment;

use crate::data::{Dataset, Shown};

/// How the dataset can say it.
const HOW: &str = "say where they stand with `boxes: {frame: ...}` on the dataset";

/// Warns where images are resized under such boxes: they are neither moved nor known to be right as they are.
pub(crate) fn warn_of_loose_boxes(
    ctx: &mut StageContext,
    data: &Dataset,
    model: &dyn VisionLanguageModel,
) {
    let shown = data
        .samples()
        .iter()
        .map(|sample| Shown::new(sample, model));
    let loose: Vec<Shown<'_>> = shown
        .filter(|shown| shown.has_loose_box() && shown.view().seen != shown.view().original)
        .collect();
    if let Some(first) = loose.first() {
        let ((width, height), seen) = (first.view().original, first.view().seen);
        ctx.warn(format!(
            "{} of {} right answers are boxes on images that are resized for the model ({width} x {height} is shown as \
             {} x {}); the boxes are not moved: {HOW}",
            loose.len(),
            data.len(),
            seen.0,
            seen.1
        ));
    }
}

/// Fails where the augmentation would move an image under its box.
pub(crate) fn check_augment(
    data: &Dataset,
    model: &dyn VisionLanguageModel,
    augment: &Augment,
) -> Result<(), StageError> {
    let loose = |sample| Shown::new(sample, model).has_loose_box();
    let count = data.samples().iter().filter(|sample| loose(sample)).count();
    if augment.flip && count > 0 {
        return Err(StageError::failed(format!(
            "augment.flip: {count} of {} right answers are boxes, which have to be mirrored with the image: {HOW}",
            data.len()
        )));
    }
    let boxed = data
        .samples()
        .iter()
        .filter(|sample| sample.boxes.is_some());
    let count = count + boxed.count();
    if augment.shift > 0 && count > 0 {
        return Err(StageError::failed(format!(
            "augment.shift: {count} of {} right answers have boxes, which do not move with the image; leave `shift` out",
            data.len()
        )));
    }
    Ok(())
}

/// Warns of questions and answers that name a side where images are mirrored.
pub(crate) fn warn_of_sides(ctx: &mut StageContext, data: &Dataset, augment: &Augment) {
    if !augment.flip {
        return;
    }
    let word = |text: &str| {
        let mut words = text.split(|c: char| !c.is_alphabetic());
        words.any(|word| word.eq_ignore_ascii_case("left") || word.eq_ignore_ascii_case("right"))
    };
    let samples = data.samples().iter();
    let count = samples
        .filter(|sample| word(&sample.prompt) || word(&sample.answer))
        .count();
    if count > 0 {
        ctx.warn(format!(
            "augment.flip mirrors images, and {count} of {} questions or answers say left or right",
            data.len()
        ));
    }
}

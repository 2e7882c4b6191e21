//! A training set in memory.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dcsft_engine::stage::{StageContext, StageError};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{Example, Picture, Prompt, VisionLanguageModel};
use dcsft_vlm::train::augment::{Augment, Mirrored};
use rayon::prelude::*;
use serde_json::Value;
use unicode_normalization::UnicodeNormalization as _;

use crate::data::{DataError, Dataset, Sample, Shown, StoredImage};
use crate::misfit::{Dropped, Misfit, OnError};

/// Bytes of decoded images that a training run keeps, three a pixel: some 350,000 of 32 x 32 pixels, or 1,900 of
/// 500 x 375.
pub(crate) const KEPT_BYTES: usize = 1 << 30;

/// What a trainer takes of a set: the samples that the model can take in whole, in the set's order.
pub(crate) struct TrainingSet {
    /// Question and answer tokens.
    pub(crate) examples: Vec<Example>,
    /// For each example what it is where its image is mirrored, if that is something else.
    pub(crate) mirrored: Vec<Option<Mirrored>>,
    /// For each example its row in the dataset.
    pub(crate) rows: Vec<usize>,
    /// Samples left out.
    pub(crate) dropped: Dropped,
}

impl TrainingSet {
    /// Decodes images and encodes answers. Images are kept as the model sees them, unless `augment` is to change
    /// the originals.
    ///
    /// # Errors
    /// If no sample is left, or one does not fit and `on_error` says to fail.
    pub(crate) fn load(
        ctx: &mut StageContext,
        data: &Dataset,
        model: &dyn VisionLanguageModel,
        augment: &Augment,
        on_error: OnError,
    ) -> Result<Self, StageError> {
        let prompts = prompts(data, model, *augment == Augment::default());
        let mut dropped = Dropped::new(on_error, "log");
        let (mut examples, mut mirrored, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (sample, prompt)) in data.samples().iter().zip(prompts).enumerate() {
            match example(model, sample, prompt, augment.flip)? {
                Ok((example, other)) => {
                    examples.push(example);
                    mirrored.push(other);
                    rows.push(row);
                }
                Err(misfit) => dropped.add(ctx, misfit)?,
            }
        }
        dropped.ensure_some_left(data.len(), "train on")?;
        Ok(Self {
            examples,
            mirrored,
            rows,
            dropped,
        })
    }
}

/// All questions with their images, each decoded once to see that it can be, and with `shrink` shrunk to what `model`
/// sees. They stay in memory until they fill [`KEPT_BYTES`]; the others are decoded again whenever they are shown,
/// with the same pixels.
pub(crate) fn prompts(
    data: &Dataset,
    model: &dyn VisionLanguageModel,
    shrink: bool,
) -> Vec<Result<Prompt, DataError>> {
    prompts_within(KEPT_BYTES, data, model, shrink)
}

fn prompts_within(
    most: usize,
    data: &Dataset,
    model: &dyn VisionLanguageModel,
    shrink: bool,
) -> Vec<Result<Prompt, DataError>> {
    let kept = AtomicUsize::new(0);
    let image = |stored: StoredImage| -> Result<Picture, DataError> {
        let mut image = stored.decode()?;
        if shrink {
            image = model
                .shrink(&image)
                .map_err(|error| DataError::Image(error.to_string()))?;
        }
        let bytes = image.pixels.len();
        Ok(match kept.fetch_add(bytes, Ordering::Relaxed) + bytes {
            sum if sum <= most => image.into(),
            _ => Picture::Stored(Arc::new(stored)),
        })
    };
    let prompt = |sample| {
        let images = data.stored_images(sample).map(image);
        Ok(Shown::new(sample, model).prompt(images.collect::<Result<_, _>>()?))
    };
    data.samples().par_iter().map(prompt).collect()
}

fn example(
    model: &dyn VisionLanguageModel,
    sample: &Sample,
    prompt: Result<Prompt, DataError>,
    flip: bool,
) -> Result<Result<(Example, Option<Mirrored>), Misfit>, StageError> {
    let prompt = match prompt {
        Ok(prompt) => prompt,
        Err(error) => return Misfit::of_data(&sample.id, error).map(Err),
    };
    let tokenizer = model.tokenizer();
    let earlier = match sample.history.is_empty() {
        true => Ok(Vec::new()),
        false => model.earlier_answers(&prompt),
    };
    let earlier = match earlier {
        Ok(tokens) => tokens,
        Err(error) => return Ok(Err(Misfit::of_model(&sample.id, &error))),
    };
    let encode = |prompt: &Prompt, answer: &str| -> Result<Arc<[u32]>, VlmError> {
        let answer = tokenizer.encode_answer(answer)?;
        model.check(prompt, &answer)?;
        Ok(earlier.iter().copied().chain(answer).collect())
    };
    let shown = Shown::new(sample, model);
    let mirror = |(text, answer): (Cow<'_, str>, Cow<'_, str>)| {
        let text: Arc<str> = text.into();
        let mut prompt = prompt.clone();
        prompt.ask(&text);
        let answer = encode(&prompt, &answer)?;
        Ok::<_, VlmError>(Mirrored { text, answer })
    };
    let encoded = encode(&prompt, &shown.answer()).and_then(|answer| {
        let mirrored = shown.mirrored().filter(|_| flip);
        if mirrored.is_some() && !sample.history.is_empty() {
            return Err(VlmError::Config(
                "`augment.flip` mirrors the boxes of a question and its answer, not those of earlier turns".into(),
            ));
        }
        let mirrored = mirrored.map(mirror);
        Ok((answer, mirrored.transpose()?))
    });
    Ok(match encoded {
        Ok((answer, mirrored)) => {
            let earlier = earlier.len();
            let example = Example {
                prompt,
                answer,
                earlier,
            };
            Ok((example, mirrored))
        }
        Err(error) => Err(Misfit::of_model(&sample.id, &error)),
    })
}

/// The class of each row by the text of a field: of the sample's `meta`, or its answer for `answer`. Classes are
/// numbered in the alphabetical order of the texts; texts that differ only in how Unicode writes them are one.
///
/// # Errors
/// Names the first sample that does not have the field.
pub(crate) fn classes(data: &Dataset, rows: &[usize], field: &str) -> Result<Vec<u32>, StageError> {
    let label = |&row: &usize| {
        let sample = &data.samples()[row];
        match sample.meta.get(field) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Null) | None if field == "answer" => Ok(sample.answer.clone()),
            Some(Value::Null) | None => Err(StageError::failed(format!(
                "auxiliary.label: sample {} has no field {field:?}; its fields are: {}",
                sample.id,
                fields(sample)
            ))),
            Some(other) => Ok(other.to_string()),
        }
    };
    let label = |row| -> Result<String, StageError> { Ok(label(row)?.nfc().collect()) };
    let labels: Vec<String> = rows.iter().map(label).collect::<Result<_, _>>()?;
    let names: Vec<&String> = labels.iter().collect::<BTreeSet<_>>().into_iter().collect();
    // Every label is in `names`.
    Ok(labels
        .iter()
        .map(|label| names.partition_point(|name| *name < label) as u32)
        .collect())
}

fn fields(sample: &Sample) -> String {
    let names: Vec<&str> = sample
        .meta
        .keys()
        .map(String::as_str)
        .chain(["answer"])
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dcsft_models::micro::{MicroConfig, MicroVlm};
    use dcsft_tensor::device::DeviceSpec;
    use dcsft_vlm::model::Picture;

    use super::prompts_within;
    use crate::data::{Dataset, DatasetWriter, Draft, DraftImage, Encoding, Split};

    /// Three images of 2 x 2 pixels, 12 bytes each.
    fn data(dir: &std::path::Path) -> Dataset {
        let mut writer = DatasetWriter::create(dir, "train", Split::Id).unwrap();
        for shade in [10, 20, 30] {
            let image = DraftImage {
                bytes: vec![shade; 12].into(),
                format: Encoding::Rgb8,
                width: 2,
                height: 2,
            };
            let draft = Draft::new("what?".into(), "this".into(), vec![image], BTreeMap::new());
            writer.push(draft).unwrap();
        }
        writer.finish(BTreeMap::new()).unwrap();
        Dataset::open(dir).unwrap()
    }

    #[test]
    fn images_beyond_the_budget_stay_where_they_are_with_the_same_pixels() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path());
        let device = "cpu".parse::<DeviceSpec>().unwrap().open().unwrap();
        let model = MicroVlm::new(MicroConfig::default(), 0, &device).unwrap();
        let pictures = |most| -> Vec<Picture> {
            let prompts = prompts_within(most, &data, &model, false).into_iter();
            prompts.flat_map(|prompt| prompt.unwrap().images).collect()
        };
        let decoded = |pictures: &[Picture]| {
            let decoded = |picture: &&Picture| matches!(picture, Picture::Decoded(_));
            pictures.iter().filter(decoded).count()
        };
        let all = pictures(36);
        assert_eq!(decoded(&all), 3);
        for (most, kept) in [(35, 2), (12, 1), (11, 0)] {
            let some = pictures(most);
            assert_eq!(decoded(&some), kept, "{most} bytes");
            for (some, all) in some.iter().zip(&all) {
                assert_eq!(some.size(), (2, 2));
                assert_eq!(some.load().unwrap(), all.load().unwrap());
            }
        }
    }
}

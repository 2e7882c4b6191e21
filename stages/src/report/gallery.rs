//! Samples of each difficulty bin with what the model answered.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use dcsft_engine::stage::{StageContext, StageError};
use dcsft_vlm::model::RgbImage;
use image::imageops::FilterType;
use serde::{Deserialize, Serialize};

use crate::data::{Dataset, RolloutRecord, Rollouts};
use crate::difficulty::Scores;

/// Longest side in pixels of a gallery image.
const LONGEST: u32 = 160;

/// Samples of one bin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GalleryBin {
    /// The bin.
    pub bin: String,
    /// Its samples.
    pub samples: Vec<GallerySample>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GallerySample {
    /// Its content ID.
    pub id: String,
    /// The PNG file of its first image, relative to the report; none where it has no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The question.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// Different answers of the model, most frequent first.
    pub answers: Vec<AnswerCount>,
    /// Right answers.
    pub correct: u64,
    /// Answers in all.
    pub n: u64,
}

/// An answer of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerCount {
    /// Its text.
    pub text: String,
    /// How often it was given.
    pub count: u64,
}

/// Writes images of up to `count` samples of each bin of the first difficulty input, and says what they show.
///
/// Content IDs are digests, so the samples with the lowest ones are a random and yet fixed choice.
pub(super) fn write(
    ctx: &StageContext,
    dir: &Path,
    count: usize,
) -> Result<Vec<GalleryBin>, StageError> {
    let Some(difficulty) = ctx.inputs("difficulty").first().filter(|_| count > 0) else {
        return Ok(Vec::new());
    };
    let scores = Scores::open(&difficulty.dir)?;
    let bins = scores.bins();
    let sources = Sources::open(ctx)?;
    let mut ids: Vec<(&str, &str)> = bins.into_iter().filter(|(id, _)| sources.has(id)).collect();
    ids.sort_unstable();
    let images = dir.join("images");
    std::fs::create_dir_all(&images).map_err(StageError::io(&images))?;
    let mut gallery = Vec::new();
    for name in scores.bin_names() {
        let chosen = ids.iter().filter(|(_, bin)| *bin == name).take(count);
        let samples = chosen.filter_map(|(id, _)| sources.sample(id, &images).transpose());
        gallery.push(GalleryBin {
            samples: samples.collect::<Result<_, _>>()?,
            bin: name,
        });
    }
    Ok(gallery)
}

/// Where samples and answers are looked up.
struct Sources {
    sets: Vec<Dataset>,
    answers: HashMap<String, RolloutRecord>,
}

impl Sources {
    fn open(ctx: &StageContext) -> Result<Self, StageError> {
        let sets = ctx
            .inputs("data")
            .iter()
            .map(|input| Dataset::open(&input.dir))
            .collect::<Result<_, _>>()?;
        let mut answers = HashMap::new();
        for input in ctx.inputs("rollouts") {
            for record in Rollouts::open(&input.dir)?.records {
                // Where several stages asked about a sample, the first of the spec is shown.
                answers.entry(record.id.clone()).or_insert(record);
            }
        }
        Ok(Self { sets, answers })
    }

    fn has(&self, id: &str) -> bool {
        self.answers.contains_key(id) && self.sets.iter().any(|set| set.position(id).is_some())
    }

    fn sample(&self, id: &str, images: &Path) -> Result<Option<GallerySample>, StageError> {
        let found = self.sets.iter().find_map(|set| Some((set, set.get(id)?)));
        let (Some((set, sample)), Some(record)) = (found, self.answers.get(id)) else {
            return Ok(None);
        };
        let file = format!("{id}.png");
        if let Some(reason) = dcsft_cache::fault_of_name(&file) {
            let message = format!("sample {id:?}: its ID cannot be a file's name: {reason}");
            return Err(StageError::failed(message));
        }
        let shown = !sample.images.is_empty();
        if shown {
            write_png(&set.image(sample)?, &images.join(&file))?;
        }
        Ok(Some(GallerySample {
            id: id.to_owned(),
            image: shown.then(|| format!("images/{file}")),
            question: sample.prompt.clone(),
            answer: sample.answer.clone(),
            answers: tally(record),
            correct: record.right() as u64,
            n: record.generations.len() as u64,
        }))
    }
}

/// Answers by frequency; equally frequent ones in alphabetical order.
fn tally(record: &RolloutRecord) -> Vec<AnswerCount> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for generation in &record.generations {
        *counts.entry(&generation.text).or_default() += 1;
    }
    let mut answers: Vec<AnswerCount> = counts
        .into_iter()
        .map(|(text, count)| AnswerCount {
            text: text.to_owned(),
            count,
        })
        .collect();
    answers.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.text.cmp(&b.text)));
    answers
}

/// Writes the image, scaled down where it is large.
fn write_png(image: &RgbImage, path: &Path) -> Result<(), StageError> {
    let Some(full) = image::RgbImage::from_raw(image.width, image.height, image.pixels.to_vec())
    else {
        return Err(StageError::failed(format!(
            "{}: an image with too few pixels",
            path.display()
        )));
    };
    let longest = image.width.max(image.height);
    let scaled =
        |side: u32| (u64::from(side) * u64::from(LONGEST) / u64::from(longest)).max(1) as u32;
    let shown = if longest > LONGEST {
        image::imageops::resize(
            &full,
            scaled(image.width),
            scaled(image.height),
            FilterType::Triangle,
        )
    } else {
        full
    };
    shown
        .save(path)
        .map_err(|error| StageError::failed(format!("{}: {error}", path.display())))
}

//! The stage `shapes`: an embedded world of small pictures on which the paper's finding can be studied
//! without any download.
//!
//! Each picture shows one of 16 objects before one of 16 scenes. The object's shape holds in every style; the
//! scene predicts the object in the training distribution alone, as in Waterbirds and Coloured MNIST. Where
//! the object cannot be made out, only the scene gives the answer: such samples end up in the hard bin, and
//! training on them teaches the scene. See `docs/stages/shapes.md` for the recipe.

mod field;
mod labels;
mod names;
mod noise;
mod paint;
mod params;
mod picture;
mod questions;
mod recipe;
mod set;
mod style;

pub use names::{OBJECTS, SCENES};
pub use params::{Counts, Look, Looks, ShapesParams};
pub use picture::{Picture, picture};
pub use set::Set;
pub use style::Style;

use std::collections::BTreeMap;
use std::path::Path;

use dcsft_engine::stage::{
    ArtifactType, Fact, Forecast, KindDecl, OutputDecl, ParamProblem, Progress, Prospect, Stage,
    StageContext, StageError,
};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::data::{DataError, DatasetWriter, Draft, DraftImage, Encoding};
use crate::memory::{DataFacts, Spread};
use recipe::Recipe;

/// Pictures drawn between two progress events; they wait in memory for the writer.
const CHUNK: u64 = 8192;

/// The stage kind `shapes`.
pub struct Shapes;

impl Stage for Shapes {
    type Params = ShapesParams;
    const DECL: KindDecl = KindDecl {
        name: "shapes",
        version: 1,
        summary: "Draws the embedded micro world: pre-training, training and evaluation sets",
        inputs: &[],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(_params: &ShapesParams) -> Vec<OutputDecl> {
        Set::ALL
            .iter()
            .map(|set| OutputDecl::new(set.name(), ArtifactType::Dataset))
            .collect()
    }

    fn check(params: &ShapesParams) -> Vec<ParamProblem> {
        params.problems()
    }

    fn forecast(params: &ShapesParams, _prospect: &Prospect) -> Forecast {
        let facts = |set: Set| {
            let facts = DataFacts {
                samples: Some(params.counts.of(set)),
                pixels: Some(Spread::all(f64::from(params.image_size.pow(2)))),
                question: Some(Spread::all(questions::LONGEST as f64)),
                answer: Spread::of(questions::answer_bytes(set).map(|bytes| bytes as f64)),
            };
            (set.name().to_owned(), Fact::new(facts))
        };
        Forecast {
            facts: Set::ALL.into_iter().map(facts).collect(),
            ..Forecast::default()
        }
    }

    fn samples(params: &ShapesParams, _root: &Path) -> BTreeMap<String, u64> {
        let count = |set: &Set| (set.name().to_owned(), params.counts.of(*set));
        Set::ALL.iter().map(count).collect()
    }

    fn run(params: ShapesParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let total = Set::ALL.iter().map(|set| params.counts.of(*set)).sum();
        let mut done = 0;
        let mut summary = serde_json::Map::new();
        for set in Set::ALL {
            let dir = ctx.output(set.name())?;
            let tally = write_set(&params, set, &dir, |drawn| {
                ctx.progress(Progress {
                    done: done + drawn,
                    total,
                    unit: "image".into(),
                    ..Progress::default()
                });
                !ctx.interrupted()
            })?;
            done += params.counts.of(set);
            summary.insert(set.name().to_owned(), tally.summary(&params, set));
        }
        ctx.summarise(json!({"images": total, "sets": summary}));
        Ok(())
    }
}

/// What is counted while a set is drawn.
#[derive(Default)]
struct Tally {
    own_scene: u64,
    hidden: u64,
    relabelled: u64,
}

impl Tally {
    fn add(&mut self, picture: &Picture, relabelled: bool) {
        self.relabelled += u64::from(relabelled);
        self.own_scene += u64::from(picture.object == picture.scene);
        self.hidden += u64::from(picture.hidden);
    }

    fn summary(&self, params: &ShapesParams, set: Set) -> Value {
        let mut summary = json!({"count": params.counts.of(set), "own_scene": self.own_scene, "hidden": self.hidden});
        if params.label_noise > 0.0 {
            summary["relabelled"] = self.relabelled.into();
        }
        summary
    }
}

/// Draws one set into `dir`. `progress` is told how many pictures are written and says whether to go on.
fn write_set(
    params: &ShapesParams,
    set: Set,
    dir: &Path,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<Tally, StageError> {
    let recipe = Recipe::of(params, set);
    let count = params.counts.of(set);
    let mut writer = DatasetWriter::create(dir, set.name(), set.split())?;
    let mut tally = Tally::default();
    let mut chunk = draw(params, &recipe, 0..count.min(CHUNK));
    let mut written = 0;
    while written < count {
        let end = (written + CHUNK).min(count);
        // One thread writes what is drawn while the others draw on.
        let (next, result) = rayon::join(
            || draw(params, &recipe, end..(end + CHUNK).min(count)),
            || {
                chunk
                    .into_iter()
                    .try_for_each(|(picture, relabelled, draft)| {
                        tally.add(&picture, relabelled);
                        writer.push(draft).map(drop)
                    })
            },
        );
        result.map_err(|error: DataError| StageError::from(error))?;
        chunk = next;
        written = end;
        if !progress(written) {
            return Err(StageError::Interrupted);
        }
    }
    writer.finish(BTreeMap::new())?;
    Ok(tally)
}

fn draw(
    params: &ShapesParams,
    recipe: &Recipe,
    indices: std::ops::Range<u64>,
) -> Vec<(Picture, bool, Draft)> {
    indices
        .into_par_iter()
        .map(|index| {
            let mut stream = picture::stream(params, recipe.set, index);
            let picture = picture::draw(recipe, params.image_size, &mut stream);
            let wrong = labels::wrong_name(params, recipe.set, index, picture.object);
            let draft = draft(recipe.set, &picture, params.image_size, wrong, &mut stream);
            (
                Picture {
                    pixels: Vec::new(),
                    ..picture
                },
                wrong.is_some(),
                draft,
            )
        })
        .collect()
}

/// `wrong` stands in the place of the right answer where it is given.
fn draft(
    set: Set,
    picture: &Picture,
    size: u32,
    wrong: Option<&str>,
    stream: &mut dcsft_tensor::rng::Stream,
) -> Draft {
    let (prompt, right) = questions::ask(set, picture, stream);
    let answer = wrong.map_or(right, str::to_owned);
    let image = DraftImage {
        bytes: picture.pixels.as_slice().into(),
        format: Encoding::Rgb8,
        width: size,
        height: size,
    };
    let mut meta = BTreeMap::from([
        ("class".to_owned(), OBJECTS[picture.object].into()),
        ("scene".to_owned(), SCENES[picture.scene].into()),
        ("style".to_owned(), picture.style.name().into()),
        ("hidden".to_owned(), picture.hidden.into()),
    ]);
    if wrong.is_some() {
        meta.insert("relabelled".to_owned(), true.into());
    }
    Draft::new(prompt, answer, vec![image], meta)
}

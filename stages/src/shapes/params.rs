//! Params of the stage `shapes`.

use std::borrow::Cow;

use dcsft_engine::stage::ParamProblem;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::set::Set;

/// The micro world. The defaults are the recipe of `docs/stages/shapes.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShapesParams {
    /// Seed of all draws.
    pub seed: u64,
    /// Pixels per side.
    #[schemars(range(min = 8, max = 256))]
    pub image_size: u32,
    /// Images per set.
    pub counts: Counts,
    /// How often an object stands before its own scene in distribution. 1/16 takes the context away.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub rho: f64,
    /// How often an object is all but invisible in distribution.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub p_hide: f64,
    /// Share of the samples of `train` whose right answer is replaced by another object's name, as labels that cannot be
    /// reproduced are in real sets. A larger share keeps the wrong labels of a smaller one. No other set has any.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "is_zero")]
    pub label_noise: f64,
    /// How pictures look, by group of sets; what is left out keeps the recipe's value.
    pub looks: Looks,
}

impl Default for ShapesParams {
    fn default() -> Self {
        Self {
            seed: 0,
            image_size: 16,
            counts: Counts::default(),
            rho: 0.9,
            p_hide: 0.13,
            label_noise: 0.0,
            looks: Looks::default(),
        }
    }
}

/// Clean labels are the recipe: a param that says no more than that is not written, nor part of a key.
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

/// Images per set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Counts {
    /// For pre-training; 96,000 are 1,500 steps of 64.
    pub pretrain: u64,
    /// For the cold start.
    pub cold_start: u64,
    /// For rollouts, bins and fine-tuning.
    pub train: u64,
    /// For evaluation in distribution.
    pub val: u64,
    /// For evaluation on other styles.
    pub rendition: u64,
    /// For evaluation before wrong scenes.
    pub adversarial: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            pretrain: 96_000,
            cold_start: 400,
            train: 4_800,
            val: 2_000,
            rendition: 2_000,
            adversarial: 2_000,
        }
    }
}

impl Counts {
    /// The number of images of `set`.
    pub fn of(&self, set: Set) -> u64 {
        match set {
            Set::Train => self.train,
            Set::ColdStart => self.cold_start,
            Set::Val => self.val,
            Set::Pretrain => self.pretrain,
            Set::Rendition => self.rendition,
            Set::Adversarial => self.adversarial,
        }
    }
}

/// How the pictures of a group of sets look. Ranges are uniform; lengths are in units of half the image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Look {
    /// Radius of the object.
    pub scale: [f64; 2],
    /// Largest rotation to either side, in radians.
    pub rotation: f64,
    /// Probability of an occluder.
    pub occlusion: f64,
    /// Half sides of the occluder, in radii of the object.
    pub occluder: [f64; 2],
    /// Opacity of the object.
    pub visibility: [f64; 2],
    /// Standard deviation of the pixel noise, drawn per image; colours run from 0 to 1.
    pub noise: [f64; 2],
}

/// Looks by group of sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "LooksForm")]
pub struct Looks {
    /// Of `pretrain`.
    pub pretrain: Look,
    /// Of `cold_start`, `train` and `val`.
    pub id: Look,
    /// Of `rendition`.
    pub rendition: Look,
    /// Of `adversarial`.
    pub adversarial: Look,
}

impl Default for Looks {
    fn default() -> Self {
        let seen = Look {
            scale: [0.6, 0.95],
            rotation: 0.17,
            occlusion: 0.3,
            occluder: [0.2, 0.45],
            visibility: [0.45, 1.0],
            noise: [0.0, 0.07],
        };
        let unseen = Look {
            scale: [0.5, 0.95],
            rotation: 0.25,
            occlusion: 0.5,
            occluder: [0.2, 0.6],
            visibility: [0.25, 1.0],
            noise: [0.0, 0.18],
        };
        Self {
            pretrain: Look {
                scale: [0.65, 0.95],
                occlusion: 0.2,
                visibility: [0.5, 1.0],
                noise: [0.0, 0.06],
                ..seen.clone()
            },
            id: seen,
            adversarial: Look {
                noise: [0.0, 0.12],
                ..unseen.clone()
            },
            rendition: unseen,
        }
    }
}

/// [`Looks`] as a spec gives them: what is left out keeps the recipe's value.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LooksForm {
    /// Of `pretrain`.
    pretrain: Option<LookForm>,
    /// Of `cold_start`, `train` and `val`.
    id: Option<LookForm>,
    /// Of `rendition`.
    rendition: Option<LookForm>,
    /// Of `adversarial`.
    adversarial: Option<LookForm>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LookForm {
    /// Radius of the object as [least, most], in units of half the image.
    scale: Option<[f64; 2]>,
    /// Largest rotation to either side, in radians.
    rotation: Option<f64>,
    /// Probability of an occluder.
    occlusion: Option<f64>,
    /// Half sides of the occluder as [least, most], in radii of the object.
    occluder: Option<[f64; 2]>,
    /// Opacity of the object as [least, most].
    visibility: Option<[f64; 2]>,
    /// Standard deviation of the pixel noise as [least, most]; colours run from 0 to 1.
    noise: Option<[f64; 2]>,
}

impl JsonSchema for Looks {
    fn schema_name() -> Cow<'static, str> {
        "Looks".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        LooksForm::json_schema(generator)
    }
}

impl From<LooksForm> for Looks {
    fn from(form: LooksForm) -> Self {
        let base = Self::default();
        Self {
            pretrain: base.pretrain.with(form.pretrain),
            id: base.id.with(form.id),
            rendition: base.rendition.with(form.rendition),
            adversarial: base.adversarial.with(form.adversarial),
        }
    }
}

impl Look {
    fn with(self, form: Option<LookForm>) -> Self {
        let Some(form) = form else { return self };
        Self {
            scale: form.scale.unwrap_or(self.scale),
            rotation: form.rotation.unwrap_or(self.rotation),
            occlusion: form.occlusion.unwrap_or(self.occlusion),
            occluder: form.occluder.unwrap_or(self.occluder),
            visibility: form.visibility.unwrap_or(self.visibility),
            noise: form.noise.unwrap_or(self.noise),
        }
    }

    fn problems(&self, path: &str, out: &mut Vec<ParamProblem>) {
        range(out, &format!("{path}.scale"), self.scale, 0.1, 1.5);
        range(out, &format!("{path}.occluder"), self.occluder, 0.0, 2.0);
        range(
            out,
            &format!("{path}.visibility"),
            self.visibility,
            0.0,
            1.0,
        );
        range(out, &format!("{path}.noise"), self.noise, 0.0, 1.0);
        number(out, &format!("{path}.rotation"), self.rotation, 0.0, 3.2);
        number(out, &format!("{path}.occlusion"), self.occlusion, 0.0, 1.0);
    }
}

impl ShapesParams {
    /// Values that no picture can be drawn with.
    pub(super) fn problems(&self) -> Vec<ParamProblem> {
        let mut out = Vec::new();
        if !(8..=256).contains(&self.image_size) {
            let message = format!(
                "{} is not a size that can be drawn; write 8 to 256 pixels",
                self.image_size
            );
            out.push(ParamProblem::new("image_size", message));
        }
        number(&mut out, "rho", self.rho, 0.0, 1.0);
        number(&mut out, "p_hide", self.p_hide, 0.0, 1.0);
        number(&mut out, "label_noise", self.label_noise, 0.0, 1.0);
        self.looks.pretrain.problems("looks.pretrain", &mut out);
        self.looks.id.problems("looks.id", &mut out);
        self.looks.rendition.problems("looks.rendition", &mut out);
        self.looks
            .adversarial
            .problems("looks.adversarial", &mut out);
        out
    }
}

fn number(out: &mut Vec<ParamProblem>, path: &str, value: f64, least: f64, most: f64) {
    if !(least..=most).contains(&value) {
        out.push(ParamProblem::new(
            path,
            format!("{value} is out of range; write {least} to {most}"),
        ));
    }
}

fn range(out: &mut Vec<ParamProblem>, path: &str, [low, high]: [f64; 2], least: f64, most: f64) {
    if !(least <= low && low <= high && high <= most) {
        let message = format!(
            "[{low}, {high}] is not a range within {least} to {most}, the smaller number first"
        );
        out.push(ParamProblem::new(path, message));
    }
}

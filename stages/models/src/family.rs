//! What a model family is: data, and the few functions that differ.
//!
//! From a family follow, written once for all: [loading and random weights](crate::modules), the
//! [processor](crate::processor), [adapters](crate::lora), [generation](crate::generate), [export](crate::export),
//! [estimates of memory](crate::memory).

use std::sync::Arc;

use dcsft_vlm::error::VlmError;
use serde_json::{Map, Value};

use crate::decoder::Decoder;
use crate::modules::Layers;
use crate::names::Names;
use crate::processor::{Files, Images, Patches};
use crate::tower::{ImageCost, Tower, TowerShape};

/// A family as it is registered: which files are its own, and how a model comes of them.
#[derive(Debug)]
pub struct Kind {
    /// What specs call it, and the `model_type` of its `config.json`.
    pub name: &'static str,
    /// Further values of `model_type`.
    pub aliases: &'static [&'static str],
    /// What `architectures` of `config.json` may name.
    pub architectures: &'static [&'static str],
    /// How its tensors are called in published files.
    pub names: Names,
    /// Reads a `config.json` whose `model_type` is one of these, and declares the layers that it describes, in the order
    /// in which their weights are read. Whatever the file asks for has its effect or is refused by its name.
    pub read: Read,
}

/// Makes a family's configuration of the fields of a `config.json`.
pub type Read = fn(&Map<String, Value>, &mut Layers) -> Result<Box<dyn Family>, String>;

/// What generic code needs to know of a configuration besides its decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The token that an image's features take the place of.
    pub image_token: u32,
    /// Tokens that no text may have, since nothing here takes their place: those of videos.
    pub refused_tokens: Vec<u32>,
    /// Tokens that end an answer where no `generation_config.json` names them.
    pub eos_tokens: Vec<u32>,
    /// Standard deviation of weights that are drawn.
    pub initializer_range: f64,
    /// Layers of the vision tower.
    pub depth: usize,
}

/// A configuration of one family, with the layers that it declared.
pub trait Family: Send + Sync {
    /// What generic code needs to know.
    fn facts(&self) -> &Facts;

    /// The language model.
    fn decoder(&self) -> &Decoder;

    /// How images are prepared, from the processor's files; `encode` gives the token ids of a text, special tokens
    /// included. It is none where only the settings are to be looked at.
    ///
    /// # Errors
    /// [`VlmError::Config`] with the file: a setting that cannot be met.
    fn images(
        &self,
        files: &Files,
        encode: Option<Encode<'_>>,
    ) -> Result<Arc<dyn Images>, VlmError>;

    /// Lays out the images of a batch; `ids` are the content IDs of the samples that they belong to.
    fn tower<'a>(&'a self, ids: Vec<Arc<str>>, images: &[&Patches]) -> Box<dyn Tower + 'a>;

    /// The sizes of the vision tower.
    fn tower_shape(&self) -> TowerShape;

    /// What an image of `pixels` pixels becomes under these limits of an image's area: patches, and tokens of the language
    /// model. Where it depends on the image's form, the most.
    fn image_cost(&self, pixels: f64, limits: [f64; 2]) -> ImageCost;
}

/// Gives the token ids of a text.
pub type Encode<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>, VlmError>;

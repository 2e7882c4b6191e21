//! The golden checkpoint as a model, and the cases it is run on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_models::processor::Encode;
use dcsft_models::{HubModel, Sequence};
use dcsft_tensor::device::test_device;
use dcsft_vlm::model::RgbImage;
use serde_json::Value;

use super::{choose, conversation, golden, images, read_json};

/// A golden set with its images.
pub(crate) struct Golden {
    pub(crate) dir: PathBuf,
    pub(crate) images: BTreeMap<String, RgbImage>,
    /// `forward/cases.json`.
    pub(crate) cases: Value,
}

impl Golden {
    pub(crate) fn open() -> Option<Self> {
        let dir = golden()?;
        Some(Self {
            images: images(&dir),
            cases: read_json(&dir.join("forward/cases.json")),
            dir,
        })
    }

    pub(crate) fn model(&self) -> HubModel {
        self.checkpoint("ckpt")
    }

    pub(crate) fn checkpoint(&self, name: &str) -> HubModel {
        let dir: &Path = &self.dir.join(name);
        // The reference was run under the set's own limits of an image's area.
        HubModel::load(dir, &test_device()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A conversation, encoded.
    pub(crate) fn sequence(
        &self,
        model: &HubModel,
        messages: &Value,
        generation_prompt: bool,
    ) -> Sequence {
        let (messages, paths) = conversation(messages);
        let options = Encode {
            generation_prompt,
            ..Encode::default()
        };
        let encoded = model
            .processor()
            .encode(&messages, &choose(&self.images, &paths), &options)
            .unwrap_or_else(|error| panic!("{error}"));
        Sequence {
            id: "golden".into(),
            encoded: encoded.into(),
            answers: Vec::new(),
        }
    }

    /// The members of a forward case, up to the generation prompt.
    pub(crate) fn case(&self, model: &HubModel, name: &str) -> Vec<Sequence> {
        let messages = self.cases["cases"][name]["messages"].as_array().unwrap();
        messages
            .iter()
            .map(|messages| self.sequence(model, messages, true))
            .collect()
    }

    /// Names of all forward cases.
    pub(crate) fn case_names(&self) -> Vec<String> {
        self.cases["cases"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }
}

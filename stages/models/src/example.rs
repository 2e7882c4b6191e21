//! The example of `docs/adding-a-model-family.md`.

use std::sync::Arc;

use burn::tensor::Tensor;
use dcsft_tensor::ops::{Activation, Pixels};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::ModuleGroup;
use serde_json::{Map, Value};

use crate::decoder::{DECODER_FIELDS, Decoder, DecoderConfig, HeadDim};
use crate::family::{Encode, Facts, Family, Kind};
use crate::fields::Known;
use crate::modules::{LayerNorm, Layers, Linear};
use crate::names::Names;
use crate::pass::{Chain, Pass, Rows};
use crate::processor::{Files, ImageSettings, Images, PatchSizes, Patches};
use crate::rope;
use crate::section::{self, Section};
use crate::tower::{ImageCost, Tower, TowerShape};

/// The family as it is registered.
pub(crate) const KIND: Kind = Kind {
    name: "patchwork",
    aliases: &[],
    architectures: &["PatchworkForConditionalGeneration"],
    names: Names::SAME,
    read,
};

const TOP: Known = Known {
    read: &[&["image_token_id", "patch_size", "text_config"]],
    ..Known::SECTION
};

const TEXT: Known = Known {
    read: &[DECODER_FIELDS],
    ..Known::SECTION
};

/// A configuration with its layers.
struct Patchwork {
    facts: Facts,
    patches: PatchSizes,
    patch: Linear,
    norm: LayerNorm,
    projector: Linear,
    decoder: Decoder,
}

fn read(raw: &Map<String, Value>, layers: &mut Layers) -> Result<Box<dyn Family>, String> {
    TOP.check("", raw)?;
    let root = Section::root(raw);
    let text = root.below("text_config")?;
    text.check(&TEXT, &["llama"])?;
    let sizes = DecoderConfig {
        rope_theta: rope::read(&text, &["default"])?.theta,
        tied: section::tied(&root, &text)?,
        ..DecoderConfig::read(&text, HeadDim::OfHidden)?
    };
    let (patch, width) = (root.size("patch_size")?, sizes.hidden);
    Ok(Box::new(Patchwork {
        facts: Facts {
            image_token: root.token("image_token_id")?,
            refused_tokens: Vec::new(),
            eos_tokens: section::end_tokens(&root, &text)?,
            initializer_range: section::initializer_range(&text)?,
            depth: 0,
        },
        patches: PatchSizes {
            patch,
            temporal: 1,
            merge: 1,
        },
        patch: layers.convolution(
            ModuleGroup::Vision,
            "model.vision.patch",
            &[width, 3, patch, patch],
            true,
        ),
        norm: layers.layer_norm(ModuleGroup::Projector, "model.projector.norm", width, 1e-6),
        projector: layers.linear(
            ModuleGroup::Projector,
            "model.projector.linear",
            [width, width],
            true,
        ),
        decoder: Decoder::new(layers, "model.text", sizes),
    }))
}

impl Family for Patchwork {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn images(&self, files: &Files, _: Option<Encode<'_>>) -> Result<Arc<dyn Images>, VlmError> {
        let settings = ImageSettings::find(files, &self.patches, self.facts.image_token)?;
        Ok(Arc::new(settings))
    }

    fn tower<'a>(&'a self, ids: Vec<Arc<str>>, images: &[&Patches]) -> Box<dyn Tower + 'a> {
        let counts = images.iter().map(|image| image.grid.iter().product());
        Box::new(Pictures {
            model: self,
            ids,
            counts: counts.collect(),
            pixels: Patches::pixels(images, self.patches.patch, 1),
        })
    }

    fn tower_shape(&self) -> TowerShape {
        let (pixels, width) = (self.patches.patch.pow(2), self.decoder.config.hidden);
        TowerShape {
            patch_values: 3 * pixels,
            patch_pixels: pixels,
            width,
            inner: width,
            heads: 1,
            gated: false,
            windows: Vec::new(),
            mergers: vec![vec![(1, [width, width])]],
        }
    }

    fn image_cost(&self, pixels: f64, limits: [f64; 2]) -> ImageCost {
        self.patches.cost(pixels, limits)
    }
}

/// The images of a batch.
struct Pictures<'a> {
    model: &'a Patchwork,
    ids: Vec<Arc<str>>,
    /// Rows of each image.
    counts: Vec<usize>,
    pixels: Pixels,
}

impl Pictures<'_> {
    fn rows(&self) -> Rows<'_> {
        Rows {
            ids: &self.ids,
            counts: &self.counts,
        }
    }

    fn project(&self, pass: Pass<'_>, x: Tensor<2>) -> Tensor<2> {
        let normed = pass.layer_norm(x.clone(), self.model.norm);
        let layer = &self.model.projector;
        x + pass.linear(normed, layer, self.rows(), Activation::Gelu)
    }
}

impl Tower for Pictures<'_> {
    fn pixels(&self) -> &Pixels {
        &self.pixels
    }

    fn steps<'a>(&'a self, pass: Pass<'a>, chain: &mut Chain<'a>) {
        chain.step("model.vision.", move |x| {
            pass.linear(x, &self.model.patch, self.rows(), Activation::None)
        });
        chain.step("model.projector.", move |x| self.project(pass, x));
    }
}

mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use burn::tensor::Device;
    use dcsft_vlm::lora::{LoraConfig, ModuleNames};
    use dcsft_vlm::model::{
        Example, Forward, Prompt, RgbImage, Sampling, VisionLanguageModel as _,
    };
    use serde_json::json;

    use super::*;
    use crate::model::HubModel;
    use crate::registry::Config;
    use crate::settings::Settings;

    /// A folder with a tokenizer of bytes and random weights.
    fn model(dir: &Path) -> HubModel {
        let write = |name: &str, value: Value| {
            std::fs::write(dir.join(name), value.to_string()).unwrap();
        };
        let config = json!({
            "model_type": "patchwork", "patch_size": 4, "image_token_id": 258,
            "text_config": {
                "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                "num_attention_heads": 2, "vocab_size": 260, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
                "rope_theta": 1e4, "eos_token_id": 257
            }
        });
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let alphabet: BTreeSet<char> = alphabet.into_iter().collect();
        let letters = alphabet.iter().enumerate();
        let vocab: Map<String, Value> = letters
            .map(|(id, letter)| (letter.to_string(), json!(id)))
            .collect();
        let special = ["<pad>", "<end>", "<image>"].into_iter().zip(256..);
        let added: Vec<Value> = special
            .map(|(token, id)| {
                json!({"id": id, "content": token, "special": true, "normalized": false, "single_word": false,
                       "lstrip": false, "rstrip": false})
            })
            .collect();
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        write("config.json", config.clone());
        write(
            "tokenizer.json",
            json!({"version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": bytes,
                   "decoder": bytes, "model": {"type": "BPE", "vocab": vocab, "merges": []}}),
        );
        write(
            "tokenizer_config.json",
            json!({"eos_token": "<end>", "pad_token": "<pad>", "chat_template":
                   "{% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}\
                    {% endif %}{% endfor %}<end>{% endfor %}"}),
        );
        write(
            "preprocessor_config.json",
            json!({"patch_size": 4, "temporal_patch_size": 1, "merge_size": 1, "min_pixels": 64, "max_pixels": 256}),
        );
        let mut layers = Layers::default();
        let family = read(config.as_object().unwrap(), &mut layers).unwrap();
        let config = Config {
            kind: &KIND,
            family: family.into(),
            layers: layers.into(),
            raw: config,
        };
        HubModel::random_of(dir, config, Settings::default(), 1, &Device::flex()).unwrap()
    }

    fn prompt(images: usize) -> Prompt {
        let image = RgbImage {
            width: 9,
            height: 12,
            pixels: (0..9 * 12 * 3).map(|value| (value % 251) as u8).collect(),
        };
        Prompt::question("one", vec![image.into(); images], None, "what?")
    }

    #[test]
    fn the_familys_two_hundred_lines_are_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let mut model = model(dir.path());
        let names: Vec<&str> = model.params().iter().map(|param| &*param.name).collect();
        assert!(names.contains(&"model.projector.linear.bias"));
        let sampling = Sampling {
            max_new_tokens: 4,
            ..Sampling::default()
        };
        let prompts = [prompt(0), prompt(1), prompt(2)];
        let answers = model.generate(&prompts, 0..2, &sampling).unwrap();
        let answer = answers[2][0].tokens.as_slice();
        let example = Example {
            prompt: prompts[2].clone(),
            answer: answer.into(),
            earlier: 0,
        };
        let logits = |model: &HubModel| {
            let output = model.forward(std::slice::from_ref(&example), &Forward::default());
            dcsft_tensor::host::values(output.unwrap().logits).unwrap()
        };
        let before = logits(&model);
        assert_eq!(before.len(), answer.len() * 260);
        let lora = LoraConfig {
            target_modules: Some(ModuleNames::Pattern(r".*(projector\.linear|q_proj)".into())),
            ..LoraConfig::default()
        };
        model.add_lora(&lora, 0).unwrap();
        let adapted = model.params().iter().filter(|param| param.trainable);
        assert_eq!(
            adapted.count(),
            2 * 3,
            "the projector and the queries of two layers"
        );
        assert_eq!(logits(&model), before, "a fresh adapter has no effect");
        model.merge_lora().unwrap();
        model.freeze(&[ModuleGroup::Vision].into()).unwrap();
        let frozen = model.params().iter().filter(|param| !param.trainable);
        assert!(
            frozen
                .map(|param| &*param.name)
                .eq(["model.vision.patch.weight", "model.vision.patch.bias"])
        );
        let all = [
            ModuleGroup::Vision,
            ModuleGroup::Projector,
            ModuleGroup::Decoder,
        ];
        assert!(model.freeze(&all.into()).is_err());
    }

    #[test]
    fn the_page_shows_this_file() {
        let page = include_str!("../../../docs/adding-a-model-family.md");
        let own = include_str!("example.rs");
        let blocks = page.split("```rust\n").skip(1);
        let mut lines = 0;
        for block in blocks.map(|rest| rest.split("```").next().unwrap()) {
            assert!(
                own.contains(block.trim_end()),
                "not in example.rs:\n{block}"
            );
            lines += block.lines().count();
        }
        assert!(lines > 100, "{lines} lines");
    }
}

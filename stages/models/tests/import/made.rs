//! A whole checkpoint of random weights, small enough to be made for each case, and changes to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_models::{HubModel, Imported, Settings, import};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::model::{Completion, Prompt, RgbImage, Sampling, VisionLanguageModel as _};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::checkpoint;

/// A tensor as it lies in a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    /// The same numbers times `factor`.
    pub(crate) fn scaled(&self, factor: f32) -> Self {
        let values = self.bytes.as_chunks::<4>().0.iter();
        let values = values.map(|&bytes| f32::from_le_bytes(bytes) * factor);
        Self {
            bytes: values.flat_map(f32::to_le_bytes).collect(),
            ..self.clone()
        }
    }
}

/// The tensors of a file, by name.
pub(crate) type Tensors = BTreeMap<String, Stored>;

/// A folder with a checkpoint in it.
pub(crate) struct Folder {
    root: TempDir,
}

impl Folder {
    /// The checkpoint, with tied embeddings and one file of weights.
    pub(crate) fn new() -> Self {
        let folder = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let dir = folder.dir();
        std::fs::create_dir(&dir).unwrap();
        checkpoint::write(&dir);
        folder.edit("config.json", "/tie_word_embeddings", json!(true));
        let generation = json!({"eos_token_id": [checkpoint::special("<|im_end|>")], "temperature": 1e-6, "do_sample": true});
        checkpoint::write_json(&dir, "generation_config.json", &generation);
        let model = HubModel::random(&dir, Settings::default(), 7, &Device::flex()).unwrap();
        // Wider than a fresh model's weights: answers must depend on each of them.
        let (base, wide) = (
            folder.root.path().join("base"),
            dir.join("model.safetensors"),
        );
        model.save(&base).unwrap();
        std::fs::rename(base.join("model.safetensors"), &wide).unwrap();
        folder.tensors("model.safetensors", |tensors| {
            for (name, tensor) in tensors.iter_mut() {
                if !name.contains("norm") && !name.contains("ln_q") {
                    *tensor = tensor.scaled(8.0);
                }
            }
        });
        folder
    }

    /// With an adapter of rank 2 on all three groups, whose second factors are not zero.
    pub(crate) fn with_adapter() -> Self {
        let folder = Self::new();
        let mut model = HubModel::load(&folder.dir(), &Device::flex()).unwrap();
        let config = LoraConfig {
            rank: 2,
            alpha: 4.0,
            dropout: 0.0,
            target_modules: None,
            targets: [
                ModuleGroup::Vision,
                ModuleGroup::Projector,
                ModuleGroup::Decoder,
            ]
            .into(),
        };
        model.add_lora(&config, 3).unwrap();
        for param in model.params_mut().iter_mut() {
            if param.name.ends_with("lora_B.weight") {
                let shape = param.value.dims();
                let mut stream = StreamKey::new("b", 0).text(&param.name).stream();
                let values: Vec<f32> = (0..shape[0] * shape[1])
                    .map(|_| stream.normal() as f32)
                    .collect();
                let device = Device::flex().autodiff();
                param.value =
                    Tensor::from_data(TensorData::new(values, shape), &device).require_grad();
            }
        }
        let saved = folder.root.path().join("saved");
        model.save(&saved).unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::rename(saved.join(name), folder.dir().join(name)).unwrap();
        }
        folder
    }

    /// The checkpoint's folder.
    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("ck")
    }

    /// A place beside the checkpoint's folder.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Sets a field of a JSON file; `null` takes it away.
    pub(crate) fn edit(&self, name: &str, pointer: &str, value: Value) {
        let path = self.dir().join(name);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let fields = json.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            fields.remove(key);
        } else {
            fields.insert(key.to_owned(), value);
        }
        std::fs::write(path, json.to_string()).unwrap();
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.dir().join(name), content).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir().join(name)).unwrap();
    }

    /// Changes the tensors of a file.
    pub(crate) fn tensors(&self, name: &str, change: impl FnOnce(&mut Tensors)) {
        let path = self.dir().join(name);
        let mut tensors = read(&path);
        change(&mut tensors);
        write(&path, &tensors);
    }

    /// Renames the tensors of a file.
    pub(crate) fn rename(&self, name: &str, new: impl Fn(&str) -> String) {
        self.tensors(name, |tensors| {
            let old = std::mem::take(tensors);
            tensors.extend(old.into_iter().map(|(name, tensor)| (new(&name), tensor)));
        });
    }

    /// Writes the weights of `model.safetensors` as two shards with an index.
    pub(crate) fn shard(&self) {
        let tensors = read(&self.dir().join("model.safetensors"));
        let (mut parts, mut map) = ([Tensors::new(), Tensors::new()], json!({}));
        for (index, (name, tensor)) in tensors.into_iter().enumerate() {
            map[&name] = json!(shard_name(index % 2));
            parts[index % 2].insert(name, tensor);
        }
        for (index, part) in parts.iter().enumerate() {
            write(&self.dir().join(shard_name(index)), part);
        }
        let index = json!({"metadata": {}, "weight_map": map});
        self.write("model.safetensors.index.json", index.to_string());
    }

    /// Takes the checkpoint over; nothing may be written where it is refused.
    pub(crate) fn import(&self) -> Result<(Imported, PathBuf), String> {
        let to = self.beside("imported");
        if to.exists() {
            std::fs::remove_dir_all(&to).unwrap();
        }
        std::fs::create_dir(&to).unwrap();
        match import(&self.dir(), &to, Settings::default()) {
            Ok(imported) => Ok((imported, to)),
            Err(error) => {
                let files = std::fs::read_dir(&to).unwrap().count();
                assert_eq!(files, 0, "{error}: and {files} files were written");
                Err(error.to_string())
            }
        }
    }

    /// What the imported model answers.
    pub(crate) fn answer(&self) -> Result<Completion, String> {
        let (_, dir) = self.import()?;
        let model = HubModel::load(&dir, &Device::flex()).map_err(|error| error.to_string())?;
        ask(&model)
    }
}

/// The model's greedy answer to a question about a picture.
pub(crate) fn ask(model: &HubModel) -> Result<Completion, String> {
    let mut stream = StreamKey::new("picture", 0).stream();
    let pixels: Vec<u8> = (0..90 * 60 * 3).map(|_| stream.below(256) as u8).collect();
    let image = RgbImage {
        width: 90,
        height: 60,
        pixels: pixels.into(),
    };
    let prompt = Prompt::question("one", vec![image.into()], None, "what is it?");
    let sampling = Sampling {
        temperature: 0.0,
        max_new_tokens: 5,
        ..Sampling::default()
    };
    let answers = model.generate(&[prompt], 0..1, &sampling);
    let mut answers = answers.map_err(|error| error.to_string())?;
    Ok(answers.remove(0).remove(0))
}

/// Whether two answers are the same but for rounding.
pub(crate) fn is_close(a: &Completion, b: &Completion) -> bool {
    let mut pairs = a.logprobs.iter().zip(&b.logprobs);
    a.tokens == b.tokens && pairs.all(|(a, b)| (a - b).abs() < 1e-4)
}

pub(crate) fn shard_name(index: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", index + 1)
}

pub(crate) fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |tensor: &TensorView| Stored {
        dtype: tensor.dtype(),
        shape: tensor.shape().to_vec(),
        bytes: tensor.data().to_vec(),
    };
    let all = tensors.tensors().into_iter();
    all.map(|(name, tensor)| (name, stored(&tensor))).collect()
}

pub(crate) fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (name.as_str(), view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

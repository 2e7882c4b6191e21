//! Weights written as safetensors, one tensor in memory at a time, in one file or in shards with an index.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::DType;
use dcsft_tensor::host;
use dcsft_tensor::params::Param;
use dcsft_vlm::error::VlmError;
use half::bf16;
use safetensors::tensor::{Dtype, View};
use serde_json::json;

use crate::checkpoint::{Checkpoint, INDEX, Layout, SINGLE, transposed};
use crate::decoder::HEAD;
use crate::folder::{fault, write_json};
use crate::model::HubModel;
use crate::registry::Config;
use crate::settings::Precision;

/// Shards of a checkpoint are no larger, as Transformers writes them.
pub const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// A weight as it will stand in a file; its values are read from the device when they are written.
pub(crate) struct Stored<'a> {
    pub(crate) name: String,
    pub(crate) param: &'a Param,
    pub(crate) layout: Layout,
    /// The shape in the file, where it is not what the layout says.
    pub(crate) shape: Option<Vec<usize>>,
    pub(crate) dtype: DType,
}

impl Stored<'_> {
    fn file_shape(&self) -> Vec<usize> {
        let [rows, columns] = self.param.value.dims();
        match (&self.shape, self.layout) {
            (Some(shape), _) => shape.clone(),
            (None, Layout::Plain) => vec![rows, columns],
            (None, Layout::Linear) => vec![columns, rows],
            (None, Layout::Vector) => vec![rows * columns],
        }
    }

    fn bytes(&self) -> usize {
        let numbers: usize = self.param.value.dims().iter().product();
        numbers * if self.dtype == DType::BF16 { 2 } else { 4 }
    }
}

/// [`View`] of a stored weight, whose shape must live as long as it.
struct Lazy<'a> {
    stored: &'a Stored<'a>,
    shape: Vec<usize>,
    /// Why a weight could not be had of its device: a view itself cannot say so.
    failure: &'a RefCell<Option<VlmError>>,
}

impl View for &Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.stored.dtype {
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = &self.stored.param.value;
        let mut values = match host::values(tensor.clone()) {
            Ok(values) => values,
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error.into());
                vec![0.0; tensor.dims().iter().product()]
            }
        };
        if self.stored.layout == Layout::Linear {
            values = transposed(&values, tensor.dims()[1]);
        }
        let bytes: Vec<u8> = match self.stored.dtype {
            DType::BF16 => values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
            _ => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        };
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.stored.bytes()
    }
}

/// Writes one file. It gets its name when it is whole.
///
/// # Errors
/// [`VlmError::Weights`] with the path, or [`VlmError::Device`].
pub(crate) fn write_file(path: &Path, stored: Vec<Stored<'_>>) -> Result<(), VlmError> {
    let failure = RefCell::new(None);
    let lazy: Vec<Lazy> = stored
        .iter()
        .map(|stored| Lazy {
            stored,
            shape: stored.file_shape(),
            failure: &failure,
        })
        .collect();
    let views = lazy.iter().map(|lazy| (lazy.stored.name.as_str(), lazy));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(views, Some(metadata), path)
        .map_err(|error| fault(path, error.to_string()))?;
    match failure.take() {
        None => Ok(()),
        Some(error) => {
            // What stands there is not the model.
            let _ = std::fs::remove_file(path);
            Err(error)
        }
    }
}

/// Writes the model's weights without adapters in the published names, in shards of at most `most` bytes.
///
/// # Errors
/// [`VlmError::Weights`] with the path.
pub fn write_weights(
    model: &HubModel,
    dir: &Path,
    precision: Precision,
    most: usize,
) -> Result<(), VlmError> {
    let mut shards: Vec<Vec<Stored>> = vec![Vec::new()];
    let (mut size, mut total) = (0, 0);
    for stored in model.stored(precision) {
        let bytes = stored.bytes();
        if size + bytes > most && size > 0 {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        total += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(stored);
        }
    }
    let count = shards.len();
    if count == 1 {
        return shards
            .into_iter()
            .try_for_each(|shard| write_file(&dir.join(SINGLE), shard));
    }
    let mut map: BTreeMap<String, String> = BTreeMap::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        map.extend(
            shard
                .iter()
                .map(|stored| (stored.name.clone(), file.clone())),
        );
        write_file(&dir.join(file), shard)?;
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_json(&dir.join(INDEX), &index)
}

/// The output layer's weights, where a checkpoint has some of its own.
pub(crate) fn head() -> String {
    format!("{HEAD}.weight")
}

/// Checks names, shapes and numbers of a checkpoint against its configuration; gives the number of parameters.
///
/// # Errors
/// [`VlmError::Weights`] names what does not fit, what is no number, or an output layer of its own where the
/// configuration ties it to the embedding.
pub(crate) fn check(mut checkpoint: Checkpoint, config: &Config) -> Result<usize, VlmError> {
    check_layers(&checkpoint, config)?;
    let decoder = config.family.decoder();
    if decoder.config.tied {
        check_tied(&checkpoint, &decoder.table())?;
        checkpoint.skip(&head());
    }
    for weight in &config.layers.weights {
        checkpoint.check(&weight.name, weight.shape, weight.layout)?;
    }
    checkpoint.finish()?;
    Ok(config.parameters())
}

/// Before anything is made for each layer: there are tensors for so many.
fn check_layers(checkpoint: &Checkpoint, config: &Config) -> Result<(), VlmError> {
    let (layers, blocks) = (
        config.family.decoder().config.layers,
        config.family.facts().depth,
    );
    if layers + blocks <= checkpoint.len() {
        return Ok(());
    }
    let problem = format!(
        "config.json describes {layers} layers of the language model and {blocks} blocks of the vision tower, and there \
         are {} tensors",
        checkpoint.len()
    );
    Err(fault(checkpoint.dir(), problem))
}

/// Transformers uses an output layer that differs from the embedding, whatever the configuration says of tying.
fn check_tied(checkpoint: &Checkpoint, embedding: &str) -> Result<(), VlmError> {
    let head = head();
    match checkpoint.file(&head) {
        Some(file) if !checkpoint.are_equal(&head, embedding) => {
            let problem = format!(
                "it has a tensor {head} that is not the token embedding, and config.json says \
                 `tie_word_embeddings: true`; set that to false to use the tensor, or take it out"
            );
            Err(fault(file, problem))
        }
        _ => Ok(()),
    }
}

impl HubModel {
    /// Its weights as they stand in a file, without adapters.
    fn stored(&self, precision: Precision) -> Vec<Stored<'_>> {
        let names = self.config.kind.names;
        let declared = self.config.layers.weights.iter();
        // Weights come in the order in which they were declared, and adapters after them.
        declared
            .zip(self.weights.params.iter())
            .map(|(weight, param)| Stored {
                name: names.published(&weight.name),
                param,
                layout: weight.layout,
                shape: weight.file_shape.clone(),
                dtype: precision.dtype(),
            })
            .collect()
    }
}

//! A model's weights written in one file or in shards with an index, and checked against its configuration.

use std::collections::BTreeMap;
use std::path::Path;

use dcsft_vlm::error::VlmError;
use serde_json::json;

use crate::checkpoint::{Checkpoint, INDEX, SINGLE};
use crate::decoder::HEAD;
use crate::folder::{fault, write_json};
use crate::model::HubModel;
use crate::registry::Config;
use crate::settings::Precision;
use crate::stored::{Dialect, Stored, write_file};

const HUB: Dialect = Dialect::Transformers;

/// Shards of a checkpoint are no larger, as Transformers writes them.
pub const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// Writes the model's weights without adapters in the published names, in shards of at most `most` bytes.
///
/// # Errors
/// [`VlmError::Weights`] with the path, also for a quantised model: what its weights were is not in memory.
pub fn write_weights(
    model: &HubModel,
    dir: &Path,
    precision: Precision,
    most: usize,
) -> Result<(), VlmError> {
    if model.files.is_quantised() {
        let problem =
            "the model's weights are held quantised, and are not written as if they were its own";
        return Err(fault(dir, problem));
    }
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
            .try_for_each(|shard| write_file(&dir.join(SINGLE), shard, HUB));
    }
    let mut map: BTreeMap<String, String> = BTreeMap::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        map.extend(
            shard
                .iter()
                .map(|stored| (stored.name.clone(), file.clone())),
        );
        write_file(&dir.join(file), shard, HUB)?;
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

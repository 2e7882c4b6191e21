//! SmolVLM2 and Idefics3: a SigLIP tower over tiles of an image, a pixel shuffle, and a Llama decoder (Marafioti et al.
//! 2025), as `SmolVLMForConditionalGeneration` and `Idefics3ForConditionalGeneration` of Transformers 5 compute them.

mod config;
pub mod tiles;

use std::sync::Arc;

use burn::tensor::Tensor;
use dcsft_tensor::ops::{self, Activation, Heads, Pixels, Spans};
use dcsft_tensor::params::ParamId;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::ModuleGroup;
use serde_json::{Map, Value};

use crate::decoder::Decoder;
use crate::family::{Encode, Facts, Family, Kind};
use crate::modules::{LayerNorm, Layers, Linear};
use crate::names::Names;
use crate::pass::{Chain, Pass, Rows};
use crate::processor::{Files, Images, Patches};
use crate::tower::{ImageCost, Tower, TowerShape};
use config::Vision;
use tiles::Tiles;

/// The family as it is registered.
pub const KIND: Kind = Kind {
    name: "smolvlm",
    aliases: &["idefics3"],
    architectures: &[
        "SmolVLMForConditionalGeneration",
        "Idefics3ForConditionalGeneration",
    ],
    names: Names::SAME,
    read,
};

/// A block of the vision tower.
struct Block {
    name: String,
    norm1: LayerNorm,
    /// Queries, keys, values.
    qkv: [Linear; 3],
    out: Linear,
    norm2: LayerNorm,
    mlp: [Linear; 2],
}

/// A configuration with its layers.
struct SmolVlm {
    vision: Vision,
    facts: Facts,
    patch: Linear,
    /// `[patches of a tile, width]`, in raster order.
    positions: ParamId,
    blocks: Vec<Block>,
    norm: LayerNorm,
    connector: Linear,
    decoder: Decoder,
}

fn read(raw: &Map<String, Value>, layers: &mut Layers) -> Result<Box<dyn Family>, String> {
    const GROUP: ModuleGroup = ModuleGroup::Vision;
    let (vision, text, facts) = config::parse(raw)?;
    let (width, epsilon) = (vision.width, vision.epsilon);
    let embeddings = "model.vision_model.embeddings";
    let kernel = [width, 3, vision.patch, vision.patch];
    let patch = layers.convolution(
        GROUP,
        &format!("{embeddings}.patch_embedding"),
        &kernel,
        true,
    );
    let table = format!("{embeddings}.position_embedding");
    let positions = layers.table(GROUP, &table, [vision.patches(), width]);
    let blocks = (0..vision.depth).map(|index| Block::new(layers, index, &vision));
    let blocks = blocks.collect();
    let norm = layers.layer_norm(GROUP, "model.vision_model.post_layernorm", width, epsilon);
    let connector = layers.linear(
        ModuleGroup::Projector,
        "model.connector.modality_projection.proj",
        [vision.shuffled(), text.hidden],
        false,
    );
    Ok(Box::new(SmolVlm {
        vision,
        facts,
        patch,
        positions,
        blocks,
        norm,
        connector,
        decoder: Decoder::new(layers, "model.text_model", text),
    }))
}

impl Block {
    fn new(layers: &mut Layers, index: usize, vision: &Vision) -> Self {
        const GROUP: ModuleGroup = ModuleGroup::Vision;
        let name = format!("model.vision_model.encoder.layers.{index}");
        let (width, inner, epsilon) = (vision.width, vision.inner, vision.epsilon);
        let norm1 = layers.layer_norm(GROUP, &format!("{name}.layer_norm1"), width, epsilon);
        let mut linear =
            |part: &str, sizes| layers.linear(GROUP, &format!("{name}.{part}"), sizes, true);
        let qkv =
            ["q", "k", "v"].map(|part| linear(&format!("self_attn.{part}_proj"), [width, width]));
        let out = linear("self_attn.out_proj", [width, width]);
        let mlp = [
            linear("mlp.fc1", [width, inner]),
            linear("mlp.fc2", [inner, width]),
        ];
        let norm2 = layers.layer_norm(GROUP, &format!("{name}.layer_norm2"), width, epsilon);
        Self {
            norm1,
            qkv,
            out,
            norm2,
            mlp,
            name: format!("{name}."),
        }
    }
}

impl Family for SmolVlm {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn images(
        &self,
        files: &Files,
        encode: Option<Encode<'_>>,
    ) -> Result<Arc<dyn Images>, VlmError> {
        Ok(Arc::new(Tiles::find(files, &self.vision, encode)?))
    }

    fn tower<'a>(&'a self, ids: Vec<Arc<str>>, images: &[&Patches]) -> Box<dyn Tower + 'a> {
        let patches = self.vision.patches();
        let counts = images.iter().map(|image| image.grid[0] * patches);
        let counts: Vec<usize> = counts.collect();
        Box::new(Pictures {
            model: self,
            ids,
            tiles: Spans::full(counts.iter().sum::<usize>() / patches, patches),
            places: self.vision.places(),
            counts,
            pixels: Patches::pixels(images, self.vision.patch, 1),
        })
    }

    fn tower_shape(&self) -> TowerShape {
        let vision = &self.vision;
        TowerShape {
            patch_values: 3 * vision.patch.pow(2),
            patch_pixels: vision.patch.pow(2),
            width: vision.width,
            inner: vision.inner,
            heads: vision.heads,
            gated: false,
            windows: vec![None; vision.depth],
            mergers: vec![vec![(
                vision.shuffle.pow(2),
                [vision.shuffled(), self.decoder.config.hidden],
            )]],
        }
    }

    /// Every image is enlarged to the largest edge, so its own area does not matter.
    fn image_cost(&self, _pixels: f64, [_, most]: [f64; 2]) -> ImageCost {
        let side = (most.sqrt() / self.vision.tile as f64).ceil();
        let tiles = if side > 1.0 { side * side + 1.0 } else { 1.0 };
        let patches = self.vision.patches() as f64;
        ImageCost {
            patches: tiles * patches,
            together: patches,
            tokens: tiles * self.vision.tokens() as f64,
        }
    }
}

/// The images of a batch.
struct Pictures<'a> {
    model: &'a SmolVlm,
    ids: Vec<Arc<str>>,
    /// Rows of each image.
    counts: Vec<usize>,
    tiles: Spans,
    /// For each row of a tile its place in the table of positions.
    places: Vec<u32>,
    pixels: Pixels,
}

impl Tower for Pictures<'_> {
    fn pixels(&self) -> &Pixels {
        &self.pixels
    }

    fn steps<'a>(&'a self, pass: Pass<'a>, chain: &mut Chain<'a>) {
        let model = self.model;
        chain.step("model.vision_model.embeddings.", move |x| {
            let x = pass.linear(x, &model.patch, self.rows(), Activation::None);
            let tiles = self.tiles.iter().count();
            let positions = pass.weight(model.positions).clone();
            x + ops::take_rows(positions, &self.places.repeat(tiles))
        });
        for block in &model.blocks {
            chain.step(&block.name, move |x| self.block(pass, block, x));
        }
        chain.step("model.vision_model.post_layernorm.", move |x| {
            pass.layer_norm(x, model.norm)
        });
        chain.step("model.connector.", move |x| self.connect(pass, x));
    }
}

impl Pictures<'_> {
    fn rows(&self) -> Rows<'_> {
        Rows {
            ids: &self.ids,
            counts: &self.counts,
        }
    }

    fn block(&self, pass: Pass<'_>, block: &Block, x: Tensor<2>) -> Tensor<2> {
        let rows = self.rows();
        let normed = pass.layer_norm(x.clone(), block.norm1);
        let parts = block.qkv.each_ref();
        let parts = parts.map(|part| pass.linear(normed.clone(), part, rows, Activation::None));
        let heads = Heads::all(self.model.vision.heads);
        let mixed = ops::attention(Tensor::cat(parts.to_vec(), 1), &self.tiles, heads);
        let x = x + pass.linear(mixed, &block.out, rows, Activation::None);
        let [fc1, fc2] = &block.mlp;
        let hidden = pass.layer_norm(x.clone(), block.norm2);
        let hidden = pass.linear(hidden, fc1, rows, Activation::GeluTanh);
        x + pass.linear(hidden, fc2, rows, Activation::None)
    }

    /// The pixel shuffle, which is a cut into longer rows in the order in which the patches come, and the projection.
    fn connect(&self, pass: Pass<'_>, x: Tensor<2>) -> Tensor<2> {
        let vision = &self.model.vision;
        let block = vision.shuffle.pow(2);
        let [count, _] = x.dims();
        let counts: Vec<usize> = self.counts.iter().map(|rows| rows / block).collect();
        let rows = Rows {
            ids: &self.ids,
            counts: &counts,
        };
        let x = x.reshape([count / block, vision.shuffled()]);
        pass.linear(x, &self.model.connector, rows, Activation::None)
    }
}

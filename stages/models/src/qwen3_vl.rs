//! Qwen3-VL, dense: a vision tower with a learned table of positions and full attention within an image, whose features
//! after some blocks are added to the first layers of the decoder (DeepStack), and a Qwen3 decoder with interleaved
//! multimodal rotary positions (Bai et al. 2025), as `Qwen3VLForConditionalGeneration` of Transformers computes it.

mod config;

use std::sync::Arc;

use burn::tensor::{Float, Tensor, TensorData};
use dcsft_tensor::host::send;
use dcsft_tensor::ops::{self, Activation, Heads, Pixels, Rotary, Span, Spans};
use dcsft_tensor::params::ParamId;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::ModuleGroup;
use serde_json::{Map, Value};

use crate::axial::{patch_positions, rotary};
use crate::decoder::Decoder;
use crate::family::{Encode, Facts, Family, Kind};
use crate::modules::{LayerNorm, Layers, Linear};
use crate::names::Names;
use crate::pass::{Chain, Flow, Pass, Rows};
use crate::processor::{Files, ImageSettings, Images, Patches};
use crate::tower::{ImageCost, Tower, TowerShape};
use config::Vision;

/// The family as it is registered.
pub const KIND: Kind = Kind {
    name: "qwen3_vl",
    aliases: &[],
    architectures: &["Qwen3VLForConditionalGeneration"],
    names: Names::SAME,
    read,
};

/// Epsilon of the tower's normalisations, fixed in Transformers' `Qwen3VLVisionBlock` and `Qwen3VLVisionPatchMerger`.
const EPSILON: f64 = 1e-6;

/// A block of the vision tower.
struct Block {
    name: String,
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    mlp: [Linear; 2],
}

/// From patches to rows as wide as the decoder's.
struct Merger {
    norm: LayerNorm,
    /// The patches of a token are put together before they are normalised, not after.
    folds_first: bool,
    layers: [Linear; 2],
}

/// A configuration with its layers.
struct Qwen3Vl {
    vision: Vision,
    facts: Facts,
    patch: Linear,
    /// `[side², width]`.
    positions: ParamId,
    blocks: Vec<Block>,
    merger: Merger,
    /// After which block, and what becomes of its rows.
    deepstack: Vec<(usize, Merger)>,
    decoder: Decoder,
}

fn read(raw: &Map<String, Value>, layers: &mut Layers) -> Result<Box<dyn Family>, String> {
    const GROUP: ModuleGroup = ModuleGroup::Vision;
    let (vision, text, facts) = config::parse(raw)?;
    let (width, sizes) = (vision.width, vision.patches);
    let kernel = [width, 3, sizes.temporal, sizes.patch, sizes.patch];
    let patch = layers.convolution(GROUP, "model.visual.patch_embed.proj", &kernel, true);
    let table = [vision.side.pow(2), width];
    let positions = layers.table(GROUP, "model.visual.pos_embed", table);
    let blocks = (0..vision.depth).map(|index| Block::new(layers, index, &vision));
    let blocks = blocks.collect();
    let merger = Merger::new(layers, "model.visual.merger", &vision, text.hidden, false);
    let deepstack = vision.deepstack.iter().enumerate().map(|(index, &block)| {
        let name = format!("model.visual.deepstack_merger_list.{index}");
        (
            block,
            Merger::new(layers, &name, &vision, text.hidden, true),
        )
    });
    Ok(Box::new(Qwen3Vl {
        deepstack: deepstack.collect(),
        decoder: Decoder::new(layers, "model.language_model", text),
        vision,
        facts,
        patch,
        positions,
        blocks,
        merger,
    }))
}

impl Block {
    fn new(layers: &mut Layers, index: usize, vision: &Vision) -> Self {
        const GROUP: ModuleGroup = ModuleGroup::Vision;
        let name = format!("model.visual.blocks.{index}");
        let (width, inner) = (vision.width, vision.inner);
        let [norm1, norm2] = ["norm1", "norm2"]
            .map(|part| layers.layer_norm(GROUP, &format!("{name}.{part}"), width, EPSILON));
        let mut linear =
            |part: &str, sizes| layers.linear(GROUP, &format!("{name}.{part}"), sizes, true);
        Self {
            norm1,
            qkv: linear("attn.qkv", [width, 3 * width]),
            proj: linear("attn.proj", [width, width]),
            norm2,
            mlp: [
                linear("mlp.linear_fc1", [width, inner]),
                linear("mlp.linear_fc2", [inner, width]),
            ],
            name: format!("{name}."),
        }
    }
}

impl Merger {
    fn new(
        layers: &mut Layers,
        name: &str,
        vision: &Vision,
        out: usize,
        folds_first: bool,
    ) -> Self {
        const GROUP: ModuleGroup = ModuleGroup::Projector;
        let merged = vision.merged();
        let normed = if folds_first { merged } else { vision.width };
        let norm = layers.layer_norm(GROUP, &format!("{name}.norm"), normed, EPSILON);
        let sizes = [
            ("linear_fc1", [merged, merged]),
            ("linear_fc2", [merged, out]),
        ];
        Self {
            norm,
            folds_first,
            layers: sizes
                .map(|(part, sizes)| layers.linear(GROUP, &format!("{name}.{part}"), sizes, true)),
        }
    }
}

impl Family for Qwen3Vl {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn images(&self, files: &Files, _: Option<Encode<'_>>) -> Result<Arc<dyn Images>, VlmError> {
        let settings = ImageSettings::find(files, &self.vision.patches, self.facts.image_token)?;
        Ok(Arc::new(settings))
    }

    fn tower<'a>(&'a self, ids: Vec<Arc<str>>, images: &[&Patches]) -> Box<dyn Tower + 'a> {
        Box::new(Pictures::new(self, ids, images))
    }

    fn tower_shape(&self) -> TowerShape {
        let (vision, out) = (&self.vision, self.decoder.config.hidden);
        let (block, merged) = (vision.patches.merge.pow(2), vision.merged());
        let stack = vec![(block, [merged, merged]), (block, [merged, out])];
        TowerShape {
            patch_values: vision.patch_values(),
            patch_pixels: vision.patches.patch.pow(2),
            width: vision.width,
            inner: vision.inner,
            heads: vision.heads,
            gated: false,
            windows: vec![None; vision.depth],
            mergers: vec![stack; 1 + self.deepstack.len()],
        }
    }

    fn image_cost(&self, pixels: f64, limits: [f64; 2]) -> ImageCost {
        self.vision.patches.cost(pixels, limits)
    }
}

/// The images of a batch.
struct Pictures<'a> {
    model: &'a Qwen3Vl,
    ids: Vec<Arc<str>>,
    /// Rows of each image.
    counts: Vec<usize>,
    spans: Spans,
    rotary: Rotary,
    /// Rows of the table of positions near each patch, and their weights: upper left, upper right, lower left, lower right.
    taps: [(Vec<u32>, Vec<f32>); 4],
    pixels: Pixels,
}

/// Where a patch lies in the table along one axis: the two rows next to it, and their weights. The table's corners are
/// the image's (`align_corners`).
fn tap(index: u32, count: usize, side: usize) -> [(u32, f32); 2] {
    let last = side as u32 - 1;
    let place = index as f32 * last as f32 / (count - 1).max(1) as f32;
    let before = place.floor();
    [0.0, 1.0].map(|offset| {
        let row = (before + offset) as u32;
        (row.min(last), 1.0 - (place - before - offset).abs())
    })
}

impl<'a> Pictures<'a> {
    fn new(model: &'a Qwen3Vl, ids: Vec<Arc<str>>, images: &[&Patches]) -> Self {
        let vision = &model.vision;
        let (mut spans, mut positions, mut start) = (Vec::new(), Vec::new(), 0);
        let mut taps: [(Vec<u32>, Vec<f32>); 4] = Default::default();
        for image in images {
            let [frames, height, width] = image.grid;
            for _ in 0..frames {
                let rows = start..start + height * width;
                start = rows.end;
                spans.push(Span {
                    prefix: 0..0,
                    own: rows.clone(),
                    queries: rows,
                    causal: false,
                });
            }
            let places = patch_positions(image.grid, vision.patches.merge);
            for &[row, column] in &places {
                let rows = tap(row, height, vision.side);
                let columns = tap(column, width, vision.side);
                let corners = rows
                    .iter()
                    .flat_map(|y| columns.iter().map(move |x| (y, x)));
                for ((places, weights), (y, x)) in taps.iter_mut().zip(corners) {
                    places.push(y.0 * vision.side as u32 + x.0);
                    weights.push(y.1 * x.1);
                }
            }
            positions.extend(places);
        }
        Self {
            model,
            ids,
            counts: images
                .iter()
                .map(|image| image.grid.iter().product())
                .collect(),
            spans: Spans::new(spans),
            rotary: rotary(&positions, vision.rope_theta, vision.width / vision.heads),
            taps,
            pixels: Patches::pixels(images, vision.patches.patch, vision.patches.temporal),
        }
    }

    fn rows(&self) -> Rows<'_> {
        Rows {
            ids: &self.ids,
            counts: &self.counts,
        }
    }

    /// The table of positions, stretched over each image.
    fn positions(&self, pass: Pass<'_>) -> Tensor<2> {
        let table = pass.weight(self.model.positions);
        let corner = |(rows, weights): &(Vec<u32>, Vec<f32>)| {
            let weights = TensorData::new(weights.clone(), [weights.len(), 1]);
            let weights = send::<2, Float>(weights, (&table.device(), table.dtype()));
            ops::take_rows(table.clone(), rows) * weights
        };
        let [a, b, c, d] = self.taps.each_ref().map(corner);
        a + b + c + d
    }

    fn block(&self, pass: Pass<'_>, block: &Block, x: Tensor<2>) -> Tensor<2> {
        let (rows, heads) = (self.rows(), self.model.vision.heads);
        let normed = pass.layer_norm(x.clone(), block.norm1);
        let qkv = pass.linear(normed, &block.qkv, rows, Activation::None);
        let qkv = ops::rotate_wide(qkv, &self.rotary, 2 * heads);
        let mixed = ops::attention(qkv, &self.spans, Heads::all(heads));
        let x = x + pass.linear(mixed, &block.proj, rows, Activation::None);
        let [fc1, fc2] = &block.mlp;
        let hidden = pass.layer_norm(x.clone(), block.norm2);
        let hidden = pass.linear(hidden, fc1, rows, Activation::GeluTanh);
        x + pass.linear(hidden, fc2, rows, Activation::None)
    }

    /// `[rows, width]` to `[rows / merge², decoder width]`.
    fn merge(&self, pass: Pass<'_>, merger: &Merger, x: Tensor<2>) -> Tensor<2> {
        let block = self.model.vision.patches.merge.pow(2);
        let shape = [x.dims()[0] / block, self.model.vision.merged()];
        let x = match merger.folds_first {
            true => pass.layer_norm(x.reshape(shape), merger.norm),
            false => pass.layer_norm(x, merger.norm).reshape(shape),
        };
        let counts: Vec<usize> = self.counts.iter().map(|count| count / block).collect();
        let rows = Rows {
            ids: &self.ids,
            counts: &counts,
        };
        let [first, second] = &merger.layers;
        let x = pass.linear(x, first, rows, Activation::Gelu);
        pass.linear(x, second, rows, Activation::None)
    }
}

impl Tower for Pictures<'_> {
    fn pixels(&self) -> &Pixels {
        &self.pixels
    }

    fn steps<'a>(&'a self, pass: Pass<'a>, chain: &mut Chain<'a>) {
        let model = self.model;
        chain.step("model.visual.patch_embed.", move |x| {
            pass.linear(x, &model.patch, self.rows(), Activation::None)
        });
        chain.step("model.visual.pos_embed.", move |x| x + self.positions(pass));
        for (index, block) in model.blocks.iter().enumerate() {
            chain.step(&block.name, move |x| self.block(pass, block, x));
            let stack = model.deepstack.iter().enumerate();
            for (place, (_, merger)) in stack.filter(|(_, (block, _))| *block == index) {
                let name = format!("model.visual.deepstack_merger_list.{place}.");
                chain.wide_step(name, move |mut flow: Flow| {
                    flow.aside.push(self.merge(pass, merger, flow.x.clone()));
                    flow
                });
            }
        }
        chain.step("model.visual.merger.", move |x| {
            self.merge(pass, &model.merger, x)
        });
    }
}

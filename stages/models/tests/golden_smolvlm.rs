//! SmolVLM2 against what Transformers and PEFT computed. `DCSFT_GOLDEN_SMOLVLM` names another set of the same layout.

#![allow(
    clippy::print_stdout,
    reason = "the tables of differences are for people"
)]

mod support;

use dcsft_models::processor::{Images as _, Patches};
use dcsft_models::smolvlm::tiles::{Cuts, Tiles};
use dcsft_models::{HubModel, Sequence};
use dcsft_tensor::device::test_device;
use dcsft_vlm::model::RgbImage;
use serde_json::Value;
use support::set::{self, Place, Set};
use support::{images, numbers};

const PLACE: Place = Place {
    variable: "DCSFT_GOLDEN_SMOLVLM",
    folder: "golden-smolvlm",
    logits: 2e-4,
};

/// The set's sizes that a test needs: pixels of a tile and of a patch, patches along the side of a token.
fn sizes(set: &Set) -> [usize; 3] {
    let config = set.json("ckpt/config.json");
    let size = |value: &Value| value.as_u64().unwrap() as usize;
    [
        size(&config["vision_config"]["image_size"]),
        size(&config["vision_config"]["patch_size"]),
        size(&config["scale_factor"]),
    ]
}

/// Row and column of a tile's patches, those of a token one after the other.
fn block_order(side: usize, shuffle: usize) -> Vec<(usize, usize)> {
    let mut order = Vec::new();
    for block in 0..(side / shuffle).pow(2) {
        let (top, left) = (block / (side / shuffle), block % (side / shuffle));
        for patch in 0..shuffle.pow(2) {
            let (y, x) = (patch / shuffle, patch % shuffle);
            order.push((top * shuffle + y, left * shuffle + x));
        }
    }
    order
}

/// For each row of a tile as the tower takes them its place in raster order.
fn order([tile, patch, shuffle]: [usize; 3]) -> Vec<usize> {
    let side = tile / patch;
    block_order(side, shuffle)
        .into_iter()
        .map(|(row, column)| row * side + column)
        .collect()
}

/// Rows of whole tiles, in raster order.
fn raster(rows: &[f32], order: &[usize], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows.len()];
    let tiles = rows.chunks_exact(order.len() * width);
    for (tile, out) in tiles.zip(out.chunks_exact_mut(order.len() * width)) {
        for (row, &place) in tile.chunks_exact(width).zip(order) {
            out[place * width..][..width].copy_from_slice(row);
        }
    }
    out
}

/// `[tiles, 3, side, side]` as the rows that the tower takes.
fn cut(pixels: &[f32], [tile, patch, shuffle]: [usize; 3]) -> Vec<f32> {
    let side = tile / patch;
    let mut rows = Vec::new();
    for picture in pixels.chunks_exact(3 * tile * tile) {
        for (row, column) in block_order(side, shuffle) {
            for channel in picture.chunks_exact(tile * tile) {
                for y in row * patch..(row + 1) * patch {
                    rows.extend(&channel[y * tile + column * patch..][..patch]);
                }
            }
        }
    }
    rows
}

fn size_of(value: &Value) -> [usize; 2] {
    numbers::<usize>(value).try_into().unwrap()
}

/// The image settings of the checkpoint, with and without splitting.
fn settings(set: &Set) -> [Tiles; 2] {
    let tiles = Tiles::load(&set.dir.join("ckpt")).unwrap();
    let mut whole = tiles.clone();
    whole.cuts.splitting = false;
    [tiles, whole]
}

fn check_images(set: &Set) {
    let [tiles, whole] = settings(set);
    let index = set.json("processor/images.json");
    let tensors = set.tensors("processor/images.safetensors");
    let decoded = images(&set.dir);
    let (model, sizes) = (set.model(), sizes(set));
    let (mut exact, mut cuts) = (0, 0);
    for (name, facts) in index["images"].as_object().unwrap() {
        let image = &decoded[facts["file"].as_str().unwrap()];
        let (height, width) = (image.height as usize, image.width as usize);
        let first = tiles.cuts.enlarged(height, width);
        assert_eq!(first, size_of(&facts["resized1_hw"]), "{name}");
        assert_eq!(
            tiles.cuts.stretched(first),
            size_of(&facts["resized2_hw"]),
            "{name}"
        );
        let pictures = tiles.pictures(image).unwrap();
        assert_eq!(
            pictures.len() as u64,
            facts["n_tiles_with_global"].as_u64().unwrap()
        );
        if let Some((_, expected)) = tensors.bytes(&format!("{name}.global_rgb_u8")) {
            assert_eq!(
                pictures.last().unwrap().pixels[..],
                expected,
                "{name}: the whole"
            );
            exact += 1;
        }
        if let Some((shape, expected)) = tensors.bytes(&format!("{name}.resized2_rgb_u8")) {
            let joined = join(&pictures, facts, &shape);
            assert_eq!(joined, expected, "{name}: tiles");
            exact += 1;
        }
        let single = whole.pictures(image).unwrap();
        if let Some((_, expected)) = tensors.bytes(&format!("{name}.nosplit_rgb_u8")) {
            assert_eq!(single[0].pixels[..], expected, "{name}: one tile");
            exact += 1;
        }
        for (which, key) in [(&tiles, "pixel_values"), (&whole, "nosplit_pixel_values")] {
            let Some((_, expected)) = tensors.f32(&format!("{name}.{key}")) else {
                continue;
            };
            let own = which.patches(image).unwrap();
            let worst = support::compare::largest(
                &Patches::pixels(&[&own], sizes[1], 1).values(),
                &cut(&expected, sizes),
            );
            assert!(worst <= 1e-6, "{name}.{key}: {worst}");
            cuts += 1;
        }
        let grid = tiles.grid(height, width).unwrap();
        assert_eq!(
            tiles.expansion(grid),
            numbers::<u32>(&facts["expansion_ids"]),
            "{name}"
        );
        let ids = whole.expansion(whole.grid(height, width).unwrap());
        let text = model.processor().tokenizer().decode_with_special(&ids);
        assert_eq!(text, facts["nosplit_expansion"], "{name}");
        // What a training run keeps in the place of an image comes to the same patches.
        let kept = tiles.shrunk(image).unwrap();
        assert_eq!(
            tiles.patches(&kept).unwrap(),
            tiles.patches(image).unwrap(),
            "{name}"
        );
    }
    assert!(
        exact > 9 && cuts > 3,
        "{exact} pictures and {cuts} cuts compared"
    );
    check_sizes(set);
}

/// The picture that tiles were cut from.
fn join(pictures: &[RgbImage], facts: &Value, shape: &[usize]) -> Vec<u8> {
    let columns = facts["cols"].as_u64().unwrap().max(1) as usize;
    let tile = pictures[0].width as usize;
    let mut joined = Vec::new();
    for y in 0..shape[0] {
        for column in 0..columns {
            let picture = &pictures[y / tile * columns + column];
            joined.extend(&picture.pixels[y % tile * tile * 3..][..tile * 3]);
        }
    }
    joined
}

/// New sizes of many images, under this set's and the published settings.
fn check_sizes(set: &Set) {
    let rows = set.json("processor/resize_table.json");
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap() as usize;
    for row in rows["rows"].as_array().unwrap() {
        let (edge, tile) = (number(row, "longest_edge"), number(row, "max_image_size"));
        let cuts = Cuts {
            longest_edge: edge,
            tile,
            splitting: true,
        };
        let (height, width) = (number(row, "height"), number(row, "width"));
        let first = cuts.enlarged(height, width);
        assert_eq!(first, size_of(&row["resized1_hw"]), "{row}");
        assert_eq!(cuts.stretched(first), size_of(&row["resized2_hw"]), "{row}");
        let (_, [rows, columns]) = cuts.plan(height, width);
        assert_eq!(
            [rows, columns],
            [number(row, "rows"), number(row, "cols")],
            "{row}"
        );
    }
}

fn check_forward(set: &Set) {
    let sizes = sizes(set);
    let order = order(sizes);
    set::forward(set, |step, _: &HubModel, sequences: &[Sequence], own| {
        let tiles: usize = sequences
            .iter()
            .flat_map(|sequence| &sequence.encoded.images)
            .map(|image| image.grid[0])
            .sum();
        let raster = |own: &[f32]| raster(own, &order, own.len() / (tiles * order.len()));
        let step = step.strip_prefix("model.")?;
        Some(match step {
            "vision_model.embeddings." => ("vision.embeddings".into(), raster(&own)),
            "vision_model.post_layernorm." => ("vision.last_hidden".into(), raster(&own)),
            "connector." => ("vision.out".into(), own),
            "text_model.embed_tokens." => ("text.hidden_0".into(), own),
            "text_model.norm." => ("text.final_norm".into(), own),
            _ => {
                let (stack, index) = step.trim_end_matches('.').rsplit_once('.')?;
                let index: usize = index.parse().ok()?;
                match stack {
                    "text_model.layers" => (format!("text.hidden_{}", index + 1), own),
                    _ => (format!("vision.block{index}_out"), raster(&own)),
                }
            }
        })
    });
}

#[test]
fn golden_smolvlm_texts() {
    let Some(set) = PLACE.open() else { return };
    set::texts(&set);
}

#[test]
fn golden_smolvlm_images() {
    let Some(set) = PLACE.open() else { return };
    check_images(&set);
    set::cases(&set, |_, _, sequences, _| {
        for sequence in sequences {
            let encoded = &sequence.encoded;
            let plain: Vec<u32> = (0..encoded.ids.len() as u32).collect();
            assert!(encoded.positions.iter().all(|axis| *axis == plain));
        }
    });
}

#[test]
fn golden_smolvlm_forward() {
    let Some(set) = PLACE.open() else { return };
    check_forward(&set);
}

#[test]
fn golden_smolvlm_generation() {
    let Some(set) = PLACE.open() else { return };
    set::generation(&set);
}

#[test]
fn golden_smolvlm_sft_full() {
    let Some(set) = PLACE.open() else { return };
    set::sft_full(&set);
}

#[test]
fn golden_smolvlm_sft_lora() {
    let Some(set) = PLACE.open() else { return };
    set::sft_lora(&set);
}

#[test]
fn golden_smolvlm_grpo() {
    let Some(set) = PLACE.open() else { return };
    set::grpo(&set);
}

#[test]
fn golden_smolvlm_export() {
    let Some(set) = PLACE.open() else { return };
    set::export(&set);
}

#[test]
fn golden_smolvlm_damage_is_noticed() {
    let file = "forward/single.safetensors";
    set::notices(&PLACE, file, "logits", check_forward);
    set::notices(&PLACE, file, "vision.out", check_forward);
    let block = "text.hidden_1";
    set::notices(&PLACE, file, block, check_forward);
    let file = "generate/generate.safetensors";
    set::notices(&PLACE, file, "plain.new_tokens", set::generation);
    let file = "grpo/grpo.safetensors";
    set::notices(&PLACE, file, "t1.0.policy_logps", set::grpo);
    let file = "processor/images.safetensors";
    set::notices(&PLACE, file, "main.resized2_rgb_u8", check_images);
    let file = "ckpt/model.safetensors";
    let weight = "model.connector.modality_projection.proj.weight";
    set::notices(&PLACE, file, weight, check_forward);
    set::notices(&PLACE, file, weight, set::sft_full);
}

/// Every family's conversations go through the models' interface: several images, several turns, none.
#[test]
fn golden_smolvlm_a_model_of_any_kind_opens() {
    let Some(set) = PLACE.open() else { return };
    let model = dcsft_models::open(&set.dir.join("ckpt"), &test_device()).unwrap();
    let end = [model.tokenizer().eos()];
    for name in ["single", "no_image", "two_images", "multi_turn"] {
        let cases = set.json("forward/cases.json");
        let prompt = set.prompt(name, &cases[name]["messages"][0]);
        model
            .check(&prompt, &end)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let answer = model.tokenizer().encode_answer("A kettle.").unwrap();
    assert_eq!(model.tokenizer().decode(&answer), " A kettle.");
    assert_eq!(model.tokenizer().decode_answer(&answer), "A kettle.");
}

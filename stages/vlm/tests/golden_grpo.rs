//! GRPO against TRL's numbers: advantages, KL, ratios, token losses and losses, from the shared golden data.
//!
//! The data's folder is `DCSFT_GOLDEN`, or `golden` below `DCSFT_SHARED`; without either the tests are skipped.

use std::fs;
use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};
use dcsft_tensor::device::test_device;
use dcsft_vlm::train::grpo::advantage::{ScaleRewards, advantages, standard_deviation};
use dcsft_vlm::train::grpo::loss::{
    Clip, Objective, TokenLoss, answer_weights, policy_gradient, token_loss,
};
use safetensors::SafeTensors;
use serde_json::Value;

const TOLERANCE: f64 = 1e-5;

/// Tensors and texts of the golden GRPO set.
struct Golden {
    json: Value,
    tensors: Vec<u8>,
    /// Real (unpadded) tokens of each answer, and whether each padded position is one.
    lengths: Vec<usize>,
    mask: Vec<bool>,
}

fn folder() -> Option<PathBuf> {
    let set = std::env::var_os("DCSFT_GOLDEN").map(PathBuf::from);
    let shared =
        || std::env::var_os("DCSFT_SHARED").map(|shared| PathBuf::from(shared).join("golden"));
    let folder = set.or_else(shared);
    if folder.is_none() {
        eprintln!("skipped: neither DCSFT_GOLDEN nor DCSFT_SHARED names the golden data");
    }
    folder
}

fn json(path: PathBuf) -> Value {
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Golden {
    fn load() -> Option<Self> {
        let folder = folder()?.join("grpo");
        let tensors = fs::read(folder.join("grpo.safetensors")).expect("the tensors are readable");
        let mut golden = Self {
            json: json(folder.join("grpo.json")),
            tensors,
            lengths: Vec::new(),
            mask: Vec::new(),
        };
        let tensors = SafeTensors::deserialize(&golden.tensors).expect("a safetensors file");
        let mask = tensors.tensor("completion_mask").expect("completion_mask");
        let width = mask.shape()[1];
        let bits: Vec<bool> = mask.data().chunks(8).map(|word| word[0] == 1).collect();
        golden.lengths = bits
            .chunks(width)
            .map(|row| row.iter().filter(|&&real| real).count())
            .collect();
        golden.mask = bits;
        Some(golden)
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensors = SafeTensors::deserialize(&self.tensors).expect("a safetensors file");
        let view = tensors.tensor(name).ok()?;
        let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Some(view.data().chunks(4).map(float).collect())
    }

    /// A padded `[answers, width]` tensor without its padding.
    fn tokens(&self, name: &str) -> Option<Vec<f32>> {
        let padded = self.floats(name)?;
        Some(
            padded
                .into_iter()
                .zip(&self.mask)
                .filter(|(_, real)| **real)
                .map(|(value, _)| value)
                .collect(),
        )
    }

    fn rewards(&self) -> (Vec<f32>, usize) {
        let groups = self.json["rewards"].as_array().expect("groups of rewards");
        let rewards = groups.iter().flat_map(floats).collect();
        (rewards, groups[0].as_array().expect("a group").len())
    }

    fn objective(&self, run: &Value) -> Objective {
        Objective {
            epsilon: number(&self.json["epsilon_low"]),
            epsilon_high: number(&self.json["epsilon_high"]),
            beta: number(&run["beta"]),
            kl_bias_correction: run["use_bias_correction_kl"].as_bool().expect("a flag"),
        }
    }

    /// The advantage of each token.
    fn token_advantages(&self) -> Vec<f32> {
        let (rewards, generations) = self.rewards();
        let all = advantages(&rewards, generations, ScaleRewards::Group);
        all.iter()
            .zip(&self.lengths)
            .flat_map(|(advantage, length)| vec![*advantage; *length])
            .collect()
    }

    /// Token losses of one run, on a leaf that tracks gradients.
    fn run(&self, run: &Value) -> (Tensor<1>, TokenLoss) {
        let temperature = format!("t{:?}", number(&run["temperature"]));
        let stored = |kind: &str| self.tokens(&format!("{temperature}.{kind}_per_token_logps"));
        let leaf = tensor(stored("policy").expect("policy log-probs")).require_grad();
        let old = (run["old_per_token_logps"] == "given")
            .then(|| tensor(stored("old").expect("old log-probs")));
        let objective = self.objective(run);
        let reference = tensor(stored("ref").expect("reference log-probs"));
        let reference = (objective.beta != 0.0).then_some(reference);
        let advantages = tensor(self.token_advantages());
        let loss = token_loss(
            &objective,
            &leaf,
            old.as_ref(),
            reference.as_ref(),
            &advantages,
        );
        (leaf, loss)
    }

    /// One weight per token.
    fn weights(
        &self,
        loss_type: &Value,
        rows: std::ops::Range<usize>,
        tokens_of_step: usize,
    ) -> Vec<f32> {
        let loss_type = serde_json::from_value(loss_type.clone()).expect("a loss type");
        let longest = self.json["max_completion_length"]
            .as_u64()
            .expect("a length") as usize;
        let lengths = &self.lengths[rows];
        let weights = answer_weights(loss_type, lengths, longest, tokens_of_step);
        weights
            .iter()
            .zip(lengths)
            .flat_map(|(weight, length)| vec![*weight as f32; *length])
            .collect()
    }

    fn all_tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

fn tensor(values: Vec<f32>) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &test_device().autodiff())
}

fn values(tensor: &Tensor<1>) -> Vec<f32> {
    tensor
        .clone()
        .inner()
        .into_data()
        .try_into_vec()
        .expect("floats")
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// A list of numbers; null is NaN.
fn floats(list: &Value) -> Vec<f32> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|value| value.as_f64().map_or(f32::NAN, |value| value as f32))
        .collect()
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let near =
            f64::from((ours - theirs).abs()) <= TOLERANCE || (ours.is_nan() && theirs.is_nan());
        assert!(near, "{what}[{index}]: {ours}, expected {theirs}");
    }
}

fn assert_near(what: &str, ours: f64, theirs: f64) {
    assert!(
        (ours - theirs).abs() <= TOLERANCE,
        "{what}: {ours}, expected {theirs}"
    );
}

const SCALES: [(&str, ScaleRewards); 3] = [
    ("group", ScaleRewards::Group),
    ("batch", ScaleRewards::Batch),
    ("none", ScaleRewards::None),
];

#[test]
fn golden_advantages() {
    let Some(folder) = folder() else { return };
    let cases = json(folder.join("grpo").join("advantages.json"));
    let cases = cases["cases"].as_array().expect("cases").clone();
    assert!(!cases.is_empty());
    for (index, case) in cases.iter().enumerate() {
        let rewards = floats(&case["rewards"]);
        let generations = case["num_generations"].as_u64().expect("a number") as usize;
        for (name, scale) in SCALES {
            let what = format!("case {index}, {name}");
            let ours = advantages(&rewards, generations, scale);
            assert_close(&what, &ours, &floats(&case[name]["advantages"]));
            let groups = if scale == ScaleRewards::Batch {
                rewards.len()
            } else {
                generations
            };
            let stds: Vec<f32> = rewards
                .chunks(groups)
                .flat_map(|group| vec![standard_deviation(group); group.len()])
                .collect();
            assert_close(
                &format!("{what}, deviation"),
                &stds,
                &floats(&case[name]["std"]),
            );
        }
    }
}

#[test]
fn golden_advantages_of_the_trainer() {
    let Some(golden) = Golden::load() else { return };
    let (rewards, generations) = golden.rewards();
    for (name, scale) in SCALES {
        let ours = advantages(&rewards, generations, scale);
        assert_close(name, &ours, &floats(&golden.json["advantages"][name]));
        let stored = golden
            .floats(&format!("advantages.scale_rewards_{name}"))
            .expect("advantages");
        assert_close(name, &ours, &stored);
    }
}

#[test]
fn golden_ratios_kl_and_token_losses() {
    let Some(golden) = Golden::load() else { return };
    let mut compared = 0;
    for run in golden.json["runs"].as_array().expect("runs") {
        let tag = run["tag"].as_str().expect("a tag");
        let (_, ours) = golden.run(run);
        for (kind, tensor) in [
            ("per_token_loss", Some(&ours.loss)),
            ("ratio", Some(&ours.ratio)),
            ("per_token_kl", ours.kl.as_ref()),
        ] {
            if let (Some(stored), Some(tensor)) = (golden.tokens(&format!("{tag}.{kind}")), tensor)
            {
                assert_close(&format!("{tag}.{kind}"), &values(tensor), &stored);
                compared += 1;
            }
        }
    }
    assert!(compared > 0, "the set has per-token results");
}

#[test]
fn golden_losses() {
    let Some(golden) = Golden::load() else { return };
    let runs = golden.json["runs"].as_array().expect("runs");
    assert!(!runs.is_empty());
    for run in runs {
        let tag = run["tag"].as_str().expect("a tag");
        let (_, token) = golden.run(run);
        let weights = golden.weights(
            &run["loss_type"],
            0..golden.lengths.len(),
            golden.all_tokens(),
        );
        let loss: f64 = values(&token.loss)
            .iter()
            .zip(&weights)
            .map(|(loss, weight)| f64::from(loss * weight))
            .sum();
        assert_near(&format!("{tag}.loss"), loss, number(&run["loss"]));
        if let Some(kl) = &token.kl {
            let kl = values(kl).iter().map(|kl| f64::from(*kl)).sum::<f64>()
                / golden.all_tokens() as f64;
            assert_near(&format!("{tag}.kl"), kl, number(&run["metrics"]["kl"]));
        }
        let objective = golden.objective(run);
        let ratios = values(&token.ratio);
        let clips: Vec<_> = ratios
            .iter()
            .zip(golden.token_advantages())
            .filter_map(|(ratio, advantage)| Clip::of(&objective, *ratio, advantage))
            .collect();
        for (name, clip) in [("low", Clip::Low), ("high", Clip::High)] {
            let part = clips.iter().filter(|side| **side == clip).count() as f64
                / golden.all_tokens() as f64;
            assert_near(
                &format!("{tag}.clip {name}"),
                part,
                number(&run["metrics"][format!("clip_ratio/{name}_mean")]),
            );
        }
    }
}

#[test]
fn golden_losses_of_micro_batches() {
    let Some(golden) = Golden::load() else { return };
    let set = &golden.json["two_micro_batches"];
    let run = serde_json::json!({
        "temperature": set["temperature"], "beta": set["beta"], "old_per_token_logps": "given",
        "use_bias_correction_kl": false,
    });
    let (_, token) = golden.run(&run);
    let losses = values(&token.loss);
    let steps = number(&set["gradient_accumulation_steps"]);
    for case in set["runs"].as_array().expect("runs") {
        let expected = floats(&case["micro_losses_as_returned (sum = step loss)"]);
        for (rows, expected) in case["rows"].as_array().expect("rows").iter().zip(expected) {
            let [from, to] = [0, 1].map(|end| rows[end].as_u64().expect("a row") as usize);
            let first: usize = golden.lengths[..from].iter().sum();
            let weights = golden.weights(&case["loss_type"], from..to, golden.all_tokens());
            let sum: f64 = losses[first..]
                .iter()
                .zip(&weights)
                .map(|(loss, weight)| f64::from(loss * weight))
                .sum();
            // All but dapo average each micro-batch, and then the micro-batches.
            let divisor = if case["loss_type"] == "dapo" {
                1.0
            } else {
                steps
            };
            assert_near(
                &format!("{} {rows}", case["loss_type"]),
                sum / divisor,
                f64::from(expected),
            );
        }
    }
}

#[test]
fn golden_slopes_are_those_of_the_reward_and_kl_terms() {
    let Some(golden) = Golden::load() else { return };
    for run in golden.json["runs"].as_array().expect("runs") {
        if run["use_bias_correction_kl"] == true {
            continue;
        }
        let (leaf, token) = golden.run(run);
        let mut gradients = token.loss.sum().backward();
        let slopes = values(
            &leaf
                .grad_remove(&mut gradients)
                .expect("the leaf has a gradient"),
        );
        let objective = golden.objective(run);
        let temperature = format!("t{:?}", number(&run["temperature"]));
        let reference = golden
            .tokens(&format!("{temperature}.ref_per_token_logps"))
            .expect("log-probs");
        let advantages = golden.token_advantages();
        let (policy, ratios) = (values(&leaf), values(&token.ratio));
        let expected: Vec<f32> = (0..slopes.len())
            .map(|token| {
                let kl = objective.beta as f32 * (1.0 - (reference[token] - policy[token]).exp());
                policy_gradient(&objective, ratios[token], advantages[token]) + kl
            })
            .collect();
        assert_close(run["tag"].as_str().expect("a tag"), &slopes, &expected);
    }
}

//! The loss of GRPO.

use burn::tensor::{Tensor, TensorData};
use dcsft_models::{HubModel, Sequence, load_adapter};
use dcsft_tensor::device::test_device;
use dcsft_tensor::ops::token_logprobs;
use dcsft_vlm::model::Forward;
use dcsft_vlm::train::grpo::loss::{LossType, Objective, answer_weights, token_loss};

use super::super::compare::{close, values};
use super::super::training::{add, by_name, norm, trainable};
use super::generation::rows_of;
use super::{PEFT_PREFIX, Set, close_gradient, number, unpadded};

fn vector(values: Vec<f32>) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &test_device().autodiff())
}

fn spread(values: &[f32], lengths: &[usize]) -> Vec<f32> {
    let pairs = values.iter().zip(lengths);
    pairs
        .flat_map(|(value, length)| vec![*value; *length])
        .collect()
}

/// GRPO: log-probabilities of policy and reference, losses, gradients of the adapters.
pub(crate) fn grpo(set: &Set) {
    let facts = set.json("grpo/grpo.json");
    let tensors = set.tensors("grpo/grpo.safetensors");
    let mut policy = set.model();
    load_adapter(&mut policy, &set.dir.join("grpo/policy_adapter")).unwrap();
    let reference = set.model();
    let (shape, ids) = tensors.i64("completion_ids").unwrap();
    let (_, mask) = tensors.i64("completion_mask").unwrap();
    let answers = rows_of(&ids, &mask, shape[1]);
    let lengths: Vec<usize> = answers.iter().map(|answer| answer.len()).collect();
    let generations = facts["num_generations"].as_u64().unwrap() as usize;
    let prompts = facts["prompts"].as_array().unwrap().iter();
    let sequences: Vec<Sequence> = prompts
        .zip(answers.chunks(generations))
        .map(|(messages, answers)| Sequence {
            id: "golden".into(),
            encoded: policy
                .encode(&set.prompt("golden", messages))
                .unwrap()
                .into(),
            answers: answers.to_vec(),
        })
        .collect();
    let real = |name: &str| unpadded(&tensors.f32(name).unwrap().1, &mask);
    let logprobs = |model: &HubModel, temperature: f64| {
        let (output, targets) = model.labelled(&sequences, &Forward::default());
        token_logprobs(output.logits, &targets, temperature)
    };
    let (_, advantages) = tensors.f32("advantages").unwrap();
    let objective = Objective {
        epsilon: number(&facts["epsilon"]),
        epsilon_high: number(&facts["epsilon"]),
        beta: number(&facts["beta"]),
        kl_bias_correction: false,
    };
    let loss_type: LossType = serde_json::from_value(facts["loss_type"].clone()).unwrap();
    for (run, expected) in facts["runs"].as_object().unwrap() {
        let (name, old) = run.rsplit_once('.').unwrap();
        let temperature: f64 = name.trim_start_matches('t').parse().unwrap();
        let kept = values(logprobs(&reference, temperature));
        close(run, &kept, &real(&format!("{name}.ref_logps")), 1e-4, 0.0);
        let own = logprobs(&policy, temperature);
        let drawn = real(&format!("{name}.policy_logps"));
        close(run, &values(own.clone()), &drawn, 1e-4, 0.0);
        let old = (old == "old_given").then(|| vector(real(&format!("{name}.old_logps"))));
        let kept = vector(real(&format!("{name}.ref_logps")));
        let given = vector(spread(&advantages, &lengths));
        let token = token_loss(&objective, &own, old.as_ref(), Some(&kept), &given);
        if let Some((_, loss)) = tensors.f32(&format!("{run}.per_token_loss")) {
            let loss = unpadded(&loss, &mask);
            close(run, &values(token.loss.clone()), &loss, 2e-4, 1e-4);
        }
        let total = lengths.iter().sum();
        let weights = answer_weights(loss_type, &lengths, shape[1], total).into_iter();
        let weights: Vec<f32> = weights.map(|weight| weight as f32).collect();
        let loss = (token.loss * vector(spread(&weights, &lengths))).sum();
        let value = f64::from(values(loss.clone())[0]);
        assert!(
            (value - number(&expected["loss"])).abs() < 5e-5,
            "{run}: loss {value}"
        );
        let mut gradients = vec![None; trainable(&policy).count()];
        add(&policy, loss.backward(), &mut gradients);
        let ours = by_name(&policy, &gradients);
        let norm = norm(&ours.values().flatten().copied().collect::<Vec<_>>());
        assert!(
            (norm / number(&expected["grad_norm"]) - 1.0).abs() < 1e-4,
            "{run}: {norm}"
        );
        let marker = format!("{run}.grad.{PEFT_PREFIX}");
        let mut count = 0;
        for each in tensors.names() {
            let Some(weight) = each.strip_prefix(&marker) else {
                continue;
            };
            close_gradient(&each, &ours[weight], &tensors.f32(&each).unwrap().1);
            count += 1;
        }
        println!("{run}: loss {value}, {count} gradients");
    }
}

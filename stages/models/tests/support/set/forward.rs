//! Logits and hidden states.

use dcsft_models::{HubModel, Sequence};

use super::super::compare::{close, same, values};
use super::{Set, load, real_rows};

/// Logits of every case, alone and packed; `reference` gives a step's tensor in the set and ours in its order.
pub(crate) fn forward(
    set: &Set,
    reference: impl Fn(&str, &HubModel, &[Sequence], Vec<f32>) -> Option<(String, Vec<f32>)>,
) {
    let mut steps = 0;
    for name in set.case_names() {
        let model = set.model_for(&name);
        let tensors = set.tensors(&format!("forward/{name}.safetensors"));
        let sequences = set.case(&model, &name);
        let expected = real_rows(&tensors, "logits").unwrap();
        let logits = values(model.logits(&sequences));
        close(
            &format!("{name}: logits"),
            &logits,
            &expected,
            set.logits,
            0.0,
        );
        for (step, flow) in model.trace(&sequences) {
            let aside = flow.aside.into_iter().enumerate();
            let all = [(step.clone(), flow.x)].into_iter();
            for (step, x) in all.chain(aside.map(|(at, x)| (format!("{step}aside.{at}"), x))) {
                let Some((what, own)) = reference(&step, &model, &sequences, values(x)) else {
                    continue;
                };
                let Some((_, expected)) = tensors.f32(&what) else {
                    continue;
                };
                let (absolute, relative) = match what.as_str() {
                    "vision.out" => (3e-5, 0.0),
                    _ => (5e-5, 1e-5),
                };
                close(
                    &format!("{name}: {what}"),
                    &own,
                    &expected,
                    absolute,
                    relative,
                );
                steps += 1;
            }
        }
    }
    assert!(steps > 10, "{steps} steps compared");
    let hub = load(&set.dir.join("ckpt_hub_bf16"));
    let tensors = set.tensors("forward/hub_bf16_logits.safetensors");
    let mut compared = 0;
    for name in tensors.names() {
        let Some(case) = name.strip_suffix(".logits_f32_from_bf16_weights") else {
            continue;
        };
        let (_, expected) = tensors.f32(&name).unwrap();
        let logits = values(hub.logits(&set.case(&hub, case)));
        let what = format!("{case}: logits of bf16 weights");
        close(&what, &logits, &expected, set.logits, 0.0);
        compared += 1;
    }
    assert!(compared > 0);
    let all: Vec<Sequence> = ["single", "no_image", "two_images"]
        .iter()
        .flat_map(|name| set.case(&hub, name))
        .collect();
    let alone = |one| values(hub.logits(std::slice::from_ref(one)));
    let apart: Vec<f32> = all.iter().flat_map(alone).collect();
    let packed = values(hub.logits(&all));
    same(
        "a sequence's logits depend on its neighbours",
        &packed,
        &apart,
    );
}

//! What is copied between this process's memory and a device, call by call. On the CPU's own device nothing is;
//! `DCSFT_TEST_DEVICE` names another. The count is of the whole process: the tests take turns. They hold what is true today,
//! so that it can only become less.

#![allow(clippy::print_stdout, reason = "what was measured is shown")]

mod support;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Device};
use dcsft_models::Sequence;
use dcsft_tensor::device::test_device;
use dcsft_tensor::host::{Copies, Transfers};
use dcsft_tensor::ops::{Column, Pixels};
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Completion, Sampling, VisionLanguageModel};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::sft::{SftConfig, SftTrainer};

use support::model::Golden;
use support::{micro, read_json};

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn counted(work: impl FnOnce()) -> Transfers {
    let before = Transfers::so_far();
    work();
    Transfers::so_far() - before
}

/// What a device of its own memory copies; the CPU's own copies nothing.
fn assert_copied(found: Transfers, up: [u64; 2], down: [u64; 2], what: &str) {
    let copies = |[calls, bytes]: [u64; 2]| Copies { calls, bytes };
    let expected = match test_device() == Device::flex() {
        true => Transfers::default(),
        false => Transfers {
            up: copies(up),
            down: copies(down),
        },
    };
    assert_eq!(found, expected, "{what}");
}

/// What the fourth token of answers takes; none ends before it. The first comes from the prompt, and with the second the
/// sequences get their places.
fn of_a_token(write: impl Fn(&Sampling) -> Vec<Vec<Completion>>) -> Transfers {
    let of = |tokens: usize| {
        let sampling = Sampling {
            max_new_tokens: tokens,
            seed: 1,
            ..Sampling::default()
        };
        let mut answers = Vec::new();
        let transfers = counted(|| answers = write(&sampling));
        let whole = |answer: &Completion| answer.tokens.len() == tokens;
        assert!(answers.iter().flatten().all(whole), "an answer ended early");
        transfers
    };
    let shorter = of(3);
    of(4) - shorter
}

#[test]
fn a_token_takes_ids_up_and_down_and_nothing_for_a_layer_or_the_vocabulary() {
    let _turn = turn();
    for layers in [1, 3] {
        let model = micro::model(layers, &test_device());
        let transfers =
            of_a_token(|sampling| model.generate(&micro::prompts(2), 0..2, sampling).unwrap());
        // Four rows: of each its token, its position, how many it has, what it draws with; then its token and the
        // log-probability.
        let what = format!("{layers} layers");
        assert_copied(transfers, [4, 4 * (3 + 4) * 4], [1, 4 * 2 * 4], &what);
    }
}

#[test]
fn golden_a_token_of_a_checkpoint_takes_ids_and_angles_up_and_ids_down() {
    let _turn = turn();
    let Some(golden) = Golden::open() else { return };
    let mut model = golden.model();
    model.set_stops(Vec::new());
    let name = &golden.case_names()[0];
    let prompt = Sequence {
        id: name.as_str().into(),
        ..golden.case(&model, name).remove(0)
    };
    let prompts = std::slice::from_ref(&prompt);
    let transfers = of_a_token(|sampling| model.write(prompts, 0..3, sampling).unwrap());
    let config = read_json(&golden.dir.join("ckpt/config.json"));
    let number = |name: &str| config["text_config"][name].as_u64().expect("a number");
    let half = number("hidden_size") / number("num_attention_heads") / 2;
    // Three rows: of each its token, how many it has, the cosines and the sines of its angles, what it draws with; then its
    // token and the log-probability.
    let up = [5, 3 * (2 + 2 * half + 4) * 4];
    assert_copied(transfers, up, [1, 3 * 2 * 4], "a token");
}

#[test]
fn pixels_go_up_as_bytes() {
    let _turn = turn();
    let column = |byte| Column { byte, channel: 1 };
    let pixels = Pixels {
        bytes: vec![7; 5 * 3],
        width: 3,
        columns: [0, 1, 2, 0, 1, 2].map(column).to_vec(),
        levels: Arc::new([[0.5; 256]; 3]),
    };
    let of_pixels = counted(|| drop(pixels.on(&test_device(), DType::F32)));
    // In words of four; then byte and channel of each column, and what bytes become.
    let up = [3, 16 + 6 * 2 * 4 + 3 * 256 * 4];
    assert_copied(of_pixels, up, [0, 0], "pixels");

    let Some(golden) = Golden::open() else { return };
    let model = golden.model();
    let mut images = 0;
    for name in golden.case_names() {
        let sequences = golden.case(&model, &name);
        let patches = sequences.iter().flat_map(|one| &one.encoded.images);
        let bytes: usize = patches.map(|image| image.bytes.len()).sum();
        // A patch has each byte twice, as a number of 32 bits; angles and the like go up too.
        if bytes > 1 << 16 {
            let up = counted(|| drop(model.logits(&sequences))).up.bytes as usize;
            assert!(up < 2 * bytes, "{name}: {up} bytes for {bytes} of pixels");
            images += 1;
        }
    }
    assert!(images > 0, "no case has a large image");
}

fn adapters() -> LoraConfig {
    LoraConfig {
        rank: 4,
        dropout: 0.0,
        ..LoraConfig::default()
    }
}

fn two_steps() -> RunConfig {
    RunConfig {
        steps: Some(2),
        ..RunConfig::default()
    }
}

/// What is seen of the second step of SFT with adapters, an update from one forward pass.
fn of_sft<T>(layers: usize, see: impl FnOnce(&mut dyn FnMut()) -> T) -> T {
    of_run(layers, &adapters(), two_steps(), see)
}

fn of_run<T>(
    layers: usize,
    lora: &LoraConfig,
    run: RunConfig,
    see: impl FnOnce(&mut dyn FnMut()) -> T,
) -> T {
    let mut model = micro::model(layers, &test_device());
    model.add_lora(lora, 0).unwrap();
    let examples = micro::examples(&model, 4);
    let config = SftConfig {
        batch_size: 4,
        run,
        ..SftConfig::default()
    };
    let mut trainer = SftTrainer::new(config, &mut model, &examples, None).unwrap();
    trainer.step().unwrap();
    see(&mut || {
        trainer.step().unwrap();
    })
}

#[test]
fn a_step_of_sft_without_dropout_sends_nothing_for_a_layer() {
    let _turn = turn();
    // Of one layer only the rows of answers are asked for; from two on there are two kinds of layers.
    let (two, four) = (
        of_sft(2, |step| counted(step)),
        of_sft(4, |step| counted(step)),
    );
    assert_eq!(two.up, four.up);
    assert_eq!(two.down.calls, four.down.calls);
}

#[test]
fn dropout_sends_the_keys_of_all_adapters_at_once() {
    let _turn = turn();
    let lora = LoraConfig {
        dropout: 0.1,
        ..adapters()
    };
    let [two, four] = [2, 4].map(|layers| of_run(layers, &lora, two_steps(), |step| counted(step)));
    let model = micro::model(4, &test_device());
    let linear = |name: &str| name.starts_with("decoder.") && name.ends_with(".weight");
    let of_layer =
        |name: &str| linear(name) && name.contains("blocks.3.") && !name.contains("norm");
    let adapted = model.params().iter().filter(|param| of_layer(&param.name));
    let more = 2 * adapted.count() as u64;
    assert!(more > 0);
    // No copy more: eight words of a key for each of four samples.
    let up = [0, more * 4 * 8 * 4];
    // With the norms of the gradients of both factors, which are read together.
    assert_copied(four - two, up, [0, more * 2 * 4], "two layers more");
}

#[test]
fn an_update_in_the_machines_memory_takes_gradients_and_weights_down_and_weights_up() {
    let _turn = turn();
    let [there, here] = [false, true].map(|offload_optimizer| {
        let run = RunConfig {
            offload_optimizer,
            ..two_steps()
        };
        of_run(2, &adapters(), run, |step| counted(step))
    });
    let mut model = micro::model(2, &test_device());
    model.add_lora(&adapters(), 0).unwrap();
    let trained = || model.params().iter().filter(|param| param.trainable);
    let count = trained().count() as u64;
    let numbers: usize = trained()
        .map(|param| param.value.shape().num_elements())
        .sum();
    let bytes = 4 * numbers as u64;
    let none = Transfers::default();
    assert_copied(here - there, [count, bytes], [2 * count, 2 * bytes], "more");
    assert!(test_device() == Device::flex() || there != none);
}

/// What a layer of the decoder asks the device to do.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod launches {
    use std::collections::BTreeMap;

    use dcsft_tensor::device::launches;

    use super::*;

    type Counts = BTreeMap<&'static str, u64>;

    /// By how much two layers more raise the count; it is shown, kernel by kernel.
    fn of_a_layer(what: &str, of: impl Fn(usize) -> Counts) -> u64 {
        let (fewer, more) = (of(2), of(4));
        let mut all = 0;
        for (kernel, count) in &more {
            let added = count - fewer.get(kernel).copied().unwrap_or(0);
            all += added;
            println!("{what}, two layers: {added} x {kernel}");
        }
        println!("{what}: {} launches a layer", all as f64 / 2.0);
        all.div_ceil(2)
    }

    #[test]
    fn a_layer_takes_no_more_kernels_than_now() {
        let _turn = turn();
        if test_device() == Device::flex() {
            return;
        }
        let token = of_a_layer("a token", |layers| {
            let model = micro::model(layers, &test_device());
            let count = |tokens| {
                let sampling = Sampling {
                    max_new_tokens: tokens,
                    seed: 1,
                    ..Sampling::default()
                };
                launches(|| model.generate(&micro::prompts(2), 0..2, &sampling).unwrap()).1
            };
            let (three, mut four) = (count(3), count(4));
            for (kernel, count) in &mut four {
                *count -= three.get(kernel).copied().unwrap_or(0);
            }
            four
        });
        let step = of_a_layer("a step of SFT", |layers| {
            of_sft(layers, |step| launches(step).1)
        });
        assert!(token <= 23 && step <= 99, "{token} a token, {step} a step");
    }
}

/// What the device's own report says.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod memory {
    use burn::tensor::Tensor;
    use dcsft_tensor::device::reserved;
    use dcsft_tensor::ops::device::attention::{Budget, within};
    use dcsft_tensor::ops::{Heads, Span, Spans};

    use super::*;

    const WIDTH: usize = 16;

    /// Attention and its gradient over sequences of these lengths.
    fn attend(lengths: &[usize], scores: usize) {
        let mut rows = 0;
        let spans = lengths.iter().map(|length| {
            let own = rows..rows + length;
            rows = own.end;
            Span {
                prefix: 0..0,
                own: own.clone(),
                queries: own,
                causal: false,
            }
        });
        let spans = Spans::new(spans.collect());
        let heads = Heads::all(4);
        let device = test_device().autodiff();
        let qkv = Tensor::<2>::ones([rows, heads.row(WIDTH)], &device).require_grad();
        let budget = Budget { scores, padding: 0 };
        let out = within(budget, qkv.clone(), &spans, heads);
        let gradient = qkv.grad(&out.sum().backward()).expect("a gradient");
        drop(dcsft_tensor::host::values(gradient.narrow(0, 0, 1)).expect("values"));
    }

    #[test]
    fn attention_takes_memory_by_rows_and_one_long_sequence_what_it_is() {
        let _turn = turn();
        let device = test_device();
        let Some(before) = reserved(&device) else {
            return;
        };
        const MIB: u64 = 1 << 20;
        let held = |what: &str| {
            let held = (reserved(&device).expect("a device") - before) / MIB;
            println!("{what}: {held} MiB");
            held
        };
        let scores = 1 << 20;
        attend(&[1024], scores);
        held("1,024 rows");
        let mut lengths = [256; 32];
        lengths[7] = 4096;
        attend(&lengths, scores);
        // All in one grid would be 8 GiB for one copy of the scores; those of the long one alone are 256 MiB.
        let held = held("4,096 rows beside 31 times 256");
        assert!(held < 200, "{held} MiB");
    }
}

//! What is copied between this process's memory and a device, call by call. On the CPU's own device nothing is;
//! `DCSFT_TEST_DEVICE` names another. The count is of the whole process: the tests take turns. They hold what is true today,
//! so that it can only become less.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::Device;
use dcsft_models::Sequence;
use dcsft_tensor::device::test_device;
use dcsft_tensor::host::{Copies, Transfers};
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
        // Four rows: of each its token, its position, what it draws with; then its token and the log-probability.
        let what = format!("{layers} layers");
        assert_copied(transfers, [3, 4 * (2 + 4) * 4], [1, 4 * 2 * 4], &what);
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
    // Three rows: of each its token, the cosines and the sines of its angles, what it draws with; then its token and the
    // log-probability.
    let up = [4, 3 * (1 + 2 * half + 4) * 4];
    assert_copied(transfers, up, [1, 3 * 2 * 4], "a token");
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

/// Of the second step of SFT with adapters, an update from one forward pass.
fn of_sft(layers: usize) -> Transfers {
    let mut model = micro::model(layers, &test_device());
    model.add_lora(&adapters(), 0).unwrap();
    let examples = micro::examples(&model, 4);
    let config = SftConfig {
        batch_size: 4,
        run: two_steps(),
        ..SftConfig::default()
    };
    let mut trainer = SftTrainer::new(config, &mut model, &examples, None).unwrap();
    trainer.step().unwrap();
    counted(|| {
        trainer.step().unwrap();
    })
}

#[test]
fn a_step_of_sft_without_dropout_sends_nothing_for_a_layer() {
    let _turn = turn();
    // Of one layer only the rows of answers are asked for; from two on there are two kinds of layers.
    let (two, four) = (of_sft(2), of_sft(4));
    assert_eq!(two.up, four.up);
    assert_eq!(two.down.calls, four.down.calls);
}

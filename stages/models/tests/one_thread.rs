//! A worker's own thread is one of its pool's, and where it may use one processor it is the only one: whatever works beside
//! it has to get on all the same. `DCSFT_TEST_DEVICE` names the device.
//!
//! One test, since the pool is the process's, and its thread the test's.

mod support;

use std::time::Duration;

use dcsft_tensor::device::test_devices;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Sampling, VisionLanguageModel};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::sft::{SftConfig, SftTrainer};

use support::micro;
use support::model::Golden;

/// Ends the process where nothing goes on.
fn watch() {
    const LONG: Duration = Duration::from_secs(300);
    std::thread::spawn(|| {
        std::thread::sleep(LONG);
        eprintln!("a thread waits for another that waits for it");
        std::process::exit(1);
    });
}

#[test]
fn a_pool_of_the_own_thread_alone_is_enough() {
    watch();
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build_global()
        .unwrap();
    train_side_by_side();
    write_answers();
}

/// Each of two models works through its batches on threads of the pool.
fn train_side_by_side() {
    let [first, second] = test_devices();
    let mut model = micro::model(2, &first);
    let lora = LoraConfig {
        rank: 4,
        dropout: 0.1,
        ..LoraConfig::default()
    };
    model.add_lora(&lora, 1).unwrap();
    let examples = micro::examples(&model, 256);
    let config = SftConfig {
        batch_size: 64,
        gradient_accumulation: 4,
        run: RunConfig {
            steps: Some(1),
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let mut trainer = SftTrainer::new(config, &mut model, &examples, None).unwrap();
    trainer.spread(&[second]);
    trainer.run(&mut ()).unwrap();
    assert_eq!(trainer.log().len(), 1);
}

/// On a device prompts are read by a thread beside the one that writes.
fn write_answers() {
    let Some(golden) = Golden::open() else { return };
    let model = golden.model();
    let prompts = micro::prompts(2);
    let sampling = Sampling {
        max_new_tokens: 2,
        ..Sampling::default()
    };
    let answers = model.generate(&prompts, 0..2, &sampling).unwrap();
    assert_eq!(answers.len(), prompts.len());
}

//! The tests of the arithmetic in one program, so that they travel as one file to a machine with a device, and a
//! device's kernels are compiled once for all of them. `DCSFT_TEST_DEVICE` names the device.

#![cfg(any(feature = "cuda", feature = "wgpu"))]
#![allow(
    clippy::duplicate_mod,
    reason = "the programs that are put together here have the same support"
)]
#![allow(clippy::print_stdout, reason = "what was compared is shown")]

mod support;

#[path = "data_parallel.rs"]
mod data_parallel;
#[path = "on_device/drawing.rs"]
mod drawing;
#[path = "on_device/draws.rs"]
mod draws;
#[path = "golden_forward.rs"]
mod golden_forward;
#[path = "golden_generate.rs"]
mod golden_generate;
#[path = "../../vlm/tests/golden_grpo.rs"]
mod golden_grpo;
#[path = "golden_grpo_model.rs"]
mod golden_grpo_model;
#[path = "golden_quantised.rs"]
mod golden_quantised;
#[path = "golden_qwen3_vl.rs"]
mod golden_qwen3_vl;
#[path = "golden_smolvlm.rs"]
mod golden_smolvlm;
#[path = "golden_training.rs"]
mod golden_training;
#[path = "logits_in_parts.rs"]
mod logits_in_parts;
#[path = "../../tensor/tests/ops.rs"]
mod ops;
#[path = "../../tensor/tests/pixels.rs"]
mod pixels;
#[path = "on_device/precision.rs"]
mod precision;
#[path = "../../tensor/tests/quant.rs"]
mod quant;
#[path = "../../vlm/tests/train_optimizer.rs"]
mod train_optimizer;

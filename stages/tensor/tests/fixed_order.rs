//! Nothing that is computed on the CPU may depend on the processor: burn's sums, means, matrix products and
//! transcendental functions do (the width of its vectors, the size of the caches, the C library's version), so the
//! sources must not call them outside what other devices run. There a sum or mean of everything is left out too: a GPU adds
//! its parts up as they come, so that two runs differ.

use std::fs;
use std::path::{Path, PathBuf};

/// Calls of burn or of the standard library whose bits depend on the processor, and what stands in their place.
const FORBIDDEN: [(&str, &str); 20] = [
    // Iterators' sums name their type; a tensor's cannot.
    (
        ".sum()",
        "`ops::weighted_sum`, on a device `composed::total`, or an iterator's `.sum::<T>()`",
    ),
    (
        ".sum_dim(",
        "`ops::squares_of_rows` or an operation of its own",
    ),
    (".mean()", "`ops::weighted_sum`"),
    (".mean_dim(", "`ops::mean_of_rows`"),
    (".matmul(", "`ops::linear` or `ops::tied_head`"),
    (".var(", "an operation of its own"),
    (".prod()", "an operation of its own"),
    (".cumsum(", "an operation of its own"),
    ("activation::", "an operation of its own"),
    (".exp()", "`ops::exp` or `libm`"),
    (".log()", "`libm`"),
    (".ln()", "`libm`"),
    (".sin()", "`libm`"),
    (".cos()", "`libm`"),
    (".tanh()", "`libm`"),
    (".erf()", "`libm`"),
    (".powf(", "`libm`"),
    (".powf_scalar(", "`libm`"),
    (".exp2()", "`libm`"),
    (".hypot(", "`libm`"),
];

/// Those whose results are not the same twice on a GPU.
const OF_ALL: [&str; 2] = [".sum()", ".mean()"];

/// Those that are harmless, or other methods, in files without tensors.
const TENSORS_ALONE: [&str; 3] = [".sum()", ".log()", ".mean()"];

/// The folders of tensor code for other devices.
const FOR_DEVICES: [&str; 5] = [
    "tensor/src/ops/adamw/",
    "tensor/src/ops/composed/",
    "tensor/src/ops/cube/",
    "tensor/src/ops/device/",
    "tensor/src/ops/draw/",
];

/// Lines that may: they run on other devices only, or the call does not come out in a result.
const MAY: [(&str, &str); 4] = [
    // Whole numbers.
    ("vlm/src/train/grpo/loss.rs", "let tokens: usize"),
    ("tensor/src/params.rs", ".sum()"),
    // Tables, which are made with `libm`.
    ("tensor/src/ops/fused/rotary.rs", "self.rotary.cos()"),
    // The exponential on other devices.
    ("tensor/src/ops/mod.rs", "    x.exp()"),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Burn's own products of 32-bit numbers read them with 10 bits after the point on NVIDIA's tensor cores.
#[test]
fn products_on_devices_are_made_in_one_place() {
    let operations = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let mut files = Vec::new();
    sources(&operations, &mut files);
    files.retain(|path| !path.starts_with(operations.join("composed")));
    files.retain(|path| {
        let text = fs::read_to_string(path).expect("a source");
        text.contains(".matmul(")
    });
    assert_eq!(files, [operations.join("device/product.rs")]);
}

#[test]
fn results_on_the_cpu_come_from_operations_of_a_fixed_order() {
    let stages = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for part in ["src", "tensor/src", "vlm/src", "models/src"] {
        sources(&stages.join(part), &mut files);
    }
    assert!(files.len() > 80, "{} files", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let name = path.strip_prefix(&stages).expect("below `stages`");
        let name = name.to_string_lossy().replace('\\', "/");
        if name.ends_with("tests.rs") {
            continue;
        }
        let for_devices = FOR_DEVICES.iter().any(|part| name.starts_with(part));
        let text = fs::read_to_string(&path).expect("a source");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let has_tensors = code.contains("Tensor<");
        for (number, line) in code.lines().enumerate() {
            let may = MAY
                .iter()
                .any(|(file, part)| name == *file && line.contains(part));
            if may || line.trim_start().starts_with("//") {
                continue;
            }
            for (call, instead) in FORBIDDEN {
                let harmless = match for_devices {
                    true => !OF_ALL.contains(&call),
                    false => !has_tensors && TENSORS_ALONE.contains(&call),
                };
                if line.contains(call) && !harmless {
                    wrong.push(format!("{name}:{}: `{call}`: {instead}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

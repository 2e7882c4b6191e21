//! Weights in and out.

use burn::tensor::DType;
use dcsft_tensor::device::{computes_in, test_device};
use dcsft_vlm::model::VisionLanguageModel;

use super::super::{Tensors, read_json};
use super::{Set, copy_folder, load};

/// Import and export of all weights in both layouts: the same names, shapes, types and bits.
pub(crate) fn export(set: &Set) {
    for (name, precision) in [("ckpt", "f32"), ("ckpt_hub_bf16", "bf16")] {
        // A model of such numbers does not open on such a device, which another test says.
        if precision == "bf16" && !computes_in(&test_device(), DType::BF16) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("in");
        copy_folder(&set.dir.join(name), &folder);
        let settings = format!(r#"{{"precision": "{precision}"}}"#);
        std::fs::write(folder.join("dcsft.json"), settings).unwrap();
        let mut model = load(&folder);
        // Whoever may have changed the weights has them written.
        model.params_mut();
        let out = dir.path().join("out");
        model.save(&out).unwrap();
        let own = Tensors::read(&out.join("model.safetensors"));
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_none_or(|ending| ending != "safetensors")
            {
                continue;
            }
            let given = Tensors::read(&path);
            for tensor in given.names() {
                assert_eq!(own.bytes(&tensor), given.bytes(&tensor), "{name}: {tensor}");
                count += 1;
            }
        }
        assert_eq!(count, own.names().len(), "{name}");
        let (given, written) = (folder.join("config.json"), out.join("config.json"));
        assert_eq!(read_json(&given), read_json(&written), "{name}");
    }
}

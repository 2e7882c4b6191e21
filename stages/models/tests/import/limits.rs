//! Files that would take all memory or time, and weights that compute nothing.

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_models::HubModel;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::VisionLanguageModel as _;
use serde_json::{Value, json};

use crate::made::{Folder, ask};

/// The error of an imported model that is asked once: a template's cost shows when it is rendered.
fn error(folder: &Folder) -> String {
    folder.answer().err().unwrap_or_else(|| panic!("an answer"))
}

#[test]
fn a_template_that_never_ends_or_fills_the_memory_is_stopped() {
    let doubled = |how: &str, times: usize| {
        format!(
            "{{% set x = 'x' %}}{}",
            format!("{{% set x = {how} %}}").repeat(times)
        )
    };
    let templates = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}".to_owned(),
        doubled("x ~ x", 60),
        doubled("x + x", 60),
        doubled("x.replace('x', 'xxxxxxxxxx')", 20),
        doubled("x | replace('x', 'xxxxxxxxxx')", 20),
        doubled("[x, x] | join", 60),
        format!("{}{{{{ x | tojson }}}}", doubled("[x, x]", 40)),
        "{{ '%1000000000d' | format(1) }}".to_owned(),
        "{{ '%1000000000d'.format(1) ~ ('%1000000000d' | format(1)) }}".to_owned(),
        "{{ messages | tojson(indent=1000000000) }}".to_owned(),
        "{{ 'x' * 100000000000 }}".to_owned(),
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".to_owned(),
    ];
    for template in templates {
        let folder = Folder::new();
        let file = json!({"chat_template": template});
        folder.write("chat_template.json", file.to_string());
        let error = error(&folder);
        let shown = template.get(..60).unwrap_or(&template);
        assert!(
            error.contains("chat_template.json: chat template"),
            "{shown}: {error}"
        );
        assert!(error.len() < 1000, "{shown}: {} bytes", error.len());
    }
}

#[test]
fn what_a_template_raises_is_cut() {
    let folder = Folder::new();
    let file = json!({"chat_template": "{{ raise_exception('x' * 100000) }}"});
    folder.write("chat_template.json", file.to_string());
    let error = error(&folder);
    assert!(
        error.contains("xxx...") && error.len() < 2000,
        "{} bytes",
        error.len()
    );
}

#[test]
fn files_have_a_largest_size() {
    for (name, bytes) in [
        ("config.json", 17 << 20),
        ("preprocessor_config.json", 17 << 20),
        ("generation_config.json", 17 << 20),
        ("chat_template.jinja", 2 << 20),
        ("tokenizer.json", 129 << 20),
    ] {
        let folder = Folder::new();
        // A hole: nothing is written.
        let file = std::fs::File::create(folder.dir().join(name)).unwrap();
        file.set_len(bytes).unwrap();
        let error = folder
            .import()
            .err()
            .unwrap_or_else(|| panic!("{name}: taken"));
        assert!(error.contains(name) && error.contains("bytes"), "{error}");
    }
}

#[test]
fn a_normaliser_cannot_blow_a_text_up() {
    let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"});
    let many = json!({"type": "Sequence", "normalizers": vec![step.clone(); 12]});
    let nested = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, many.clone()]});
    let front = json!({"type": "Prepend", "prepend": "aaaa"});
    for normaliser in [step, many, nested, front] {
        let folder = Folder::new();
        folder.edit("tokenizer.json", "/normalizer", normaliser);
        let error = folder.import().err().unwrap();
        assert!(error.contains("tokenizer.json: its normaliser"), "{error}");
    }
    let folder = Folder::new();
    folder.edit("tokenizer.json", "/normalizer", json!({"type": "NFC"}));
    folder.import().unwrap();
    let decoder = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"});
    folder.edit("tokenizer.json", "/decoder", decoder);
    let error = folder.import().err().unwrap();
    assert!(error.contains("decoder"), "{error}");
}

#[test]
fn an_image_has_a_largest_area() {
    for name in ["min_pixels", "max_pixels"] {
        let folder = Folder::new();
        let pointer = format!("/{name}");
        folder.edit(
            "preprocessor_config.json",
            &pointer,
            json!(1_000_000_000_000_000u64),
        );
        if name == "min_pixels" {
            folder.edit(
                "preprocessor_config.json",
                "/max_pixels",
                json!(1_000_000_000_000_000u64),
            );
        }
        let error = folder.import().err().unwrap();
        assert!(
            error.contains(name) && error.contains("1000000000000000"),
            "{error}"
        );
    }
}

/// A pipe would be waited for, a device read without end.
#[cfg(unix)]
#[test]
fn pipes_and_devices_are_no_files() {
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.json",
        "generation_config.json",
    ] {
        for device in [false, true] {
            let folder = Folder::new();
            folder.remove(name);
            let path = folder.dir().join(name);
            if device {
                std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
            } else {
                let made = std::process::Command::new("mkfifo").arg(&path).status();
                assert!(made.unwrap().success());
            }
            let error = folder.import().err().unwrap();
            assert!(
                error.contains(name) && error.contains("has to be a file"),
                "{error}"
            );
        }
    }
}

#[test]
fn logits_that_are_no_numbers_stop_the_answers() {
    let folder = Folder::new();
    let mut model = HubModel::load(&folder.dir(), &Device::flex()).unwrap();
    let device = Device::flex().autodiff();
    for param in model.params_mut().iter_mut() {
        if param.name == "model.language_model.norm.weight" {
            let shape = param.value.dims();
            let values = vec![f32::NAN; shape[0] * shape[1]];
            param.value = Tensor::from_data(TensorData::new(values, shape), &device);
        }
    }
    let error = ask(&model).unwrap_err();
    assert!(
        error.contains("token 1") && error.contains("sample one") && error.contains("NaN"),
        "{error}"
    );
}

/// Limits that a stage sets are those of the model in memory; what is saved keeps its own.
#[test]
fn other_limits_of_the_area_last_as_long_as_the_model_is_in_memory() {
    let folder = Folder::new();
    let mut model = HubModel::load(&folder.dir(), &Device::flex()).unwrap();
    let before = ask(&model).unwrap();
    model.set_pixels(None, Some(784)).unwrap();
    assert_eq!(model.processor().images().limits()[1], 784);
    let smaller = ask(&model).unwrap();
    assert_ne!(before.logprobs, smaller.logprobs);
    let saved = folder.beside("saved");
    model.save(&saved).unwrap();
    let again = HubModel::load(&saved, &Device::flex()).unwrap();
    assert_eq!(ask(&again).unwrap(), before);
    let error = model.set_pixels(Some(9000), Some(800)).unwrap_err();
    assert!(
        matches!(error, VlmError::Config(ref text) if text.contains("9000")),
        "{error}"
    );
    let settings: Value =
        serde_json::from_slice(&std::fs::read(saved.join("dcsft.json")).unwrap()).unwrap();
    assert_eq!(settings["max_pixels"], Value::Null);
}

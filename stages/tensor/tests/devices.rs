//! Devices by name, those that this build lacks, and those that are there.

use dcsft_tensor::device::{DeviceError, DeviceSpec, accelerators};

#[test]
fn names_are_read_and_written() {
    for (name, spec) in [
        ("cpu", DeviceSpec::Cpu),
        ("cuda:3", DeviceSpec::Cuda(3)),
        ("wgpu:2", DeviceSpec::Wgpu(2)),
    ] {
        assert_eq!(name.parse(), Ok(spec));
        assert_eq!(spec.to_string(), name);
    }
    assert_eq!("cuda".parse(), Ok(DeviceSpec::Cuda(0)));
    assert_eq!("wgpu".parse(), Ok(DeviceSpec::Wgpu(0)));
    for wrong in ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "wgpu:", "wgpu:x"] {
        let unknown = DeviceError::Unknown { name: wrong.into() };
        assert_eq!(wrong.parse::<DeviceSpec>(), Err(unknown));
    }
}

#[test]
fn the_processor_is_always_there() {
    assert!(DeviceSpec::Cpu.open().is_ok());
}

#[test]
fn what_the_build_lacks_is_one_sentence() {
    let lacking = [
        (cfg!(feature = "cuda"), DeviceSpec::Cuda(0), "cuda"),
        (cfg!(feature = "wgpu"), DeviceSpec::Wgpu(0), "wgpu"),
    ];
    for (_, device, feature) in lacking.into_iter().filter(|(built, ..)| !built) {
        let said = format!(
            "{device} needs a build with GPU support: cargo build --release --features {feature}"
        );
        assert_eq!(device.open().unwrap_err().to_string(), said);
        assert_eq!(device.find().unwrap_err().to_string(), said);
    }
}

#[test]
fn what_is_listed_can_be_asked_for_and_nothing_after_it() {
    let there: Vec<_> = accelerators().into_iter().flatten().collect();
    for accelerator in &there {
        assert_eq!(accelerator.device.find(), Ok(()));
        assert!(!accelerator.name.is_empty() && !accelerator.driver.is_empty());
    }
    for device in [DeviceSpec::Cuda(there.len()), DeviceSpec::Wgpu(there.len())] {
        let said = device.find().unwrap_err().to_string();
        assert!(said.starts_with(&device.to_string()), "{said}");
    }
}

//! What Vulkan, Metal and DirectX 12 offer: GPUs of any maker, and drivers that run on the processor.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::wgpu::wgpu::{
    Adapter, Backend, Backends, DeviceType, Instance, InstanceDescriptor,
};
use burn::tensor::{Device, DeviceKind};

use super::spec::{Accelerator, DeviceError, DeviceSpec};

/// The interfaces that are asked, the best first. OpenGL is left out: what its drivers offer does not compute reliably.
const INTERFACES: [(Backend, WgpuBackend); 3] = [
    (Backend::Vulkan, WgpuBackend::Vulkan),
    (Backend::Metal, WgpuBackend::Metal),
    (Backend::Dx12, WgpuBackend::Dx12),
];

/// The interface of this machine and the devices opened so far, by index.
///
/// Whoever looks at drivers holds its lock: the Vulkan loader crashes where instances come and go on several threads at
/// once.
struct Driver {
    instance: Instance,
    opened: BTreeMap<usize, Device>,
}

/// An adapter as burn finds it again.
struct Found {
    adapter: Adapter,
    interface: WgpuBackend,
    kind: DeviceKind,
}

fn driver() -> MutexGuard<'static, Driver> {
    static DRIVER: OnceLock<Mutex<Driver>> = OnceLock::new();
    let new = || {
        let mut descriptor = InstanceDescriptor::new_without_display_handle();
        descriptor.backends = Backends::PRIMARY;
        Mutex::new(Driver {
            instance: Instance::new(descriptor),
            opened: BTreeMap::new(),
        })
    };
    let driver = DRIVER.get_or_init(new).lock();
    driver.unwrap_or_else(PoisonError::into_inner)
}

/// With 2 in it, a machine whose only adapter runs on the processor has a second one: the same, with a queue and memory of
/// its own. So programs for several devices can be tried where there is no GPU.
const SOFTWARE_DEVICES: &str = "DCSFT_SOFTWARE_DEVICES";

impl Driver {
    /// The adapters of the first interface that has any: GPUs with memory of their own, then those that share the
    /// processor's, then virtual ones, then what runs on the processor.
    fn adapters(&self) -> Vec<Found> {
        INTERFACES
            .iter()
            .map(|&(backend, interface)| {
                let listed = self.instance.enumerate_adapters(backend.into());
                doubled(ordered(ready(listed).unwrap_or_default(), interface))
            })
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }

    fn find(&self, device: DeviceSpec, index: usize) -> Result<Found, DeviceError> {
        let mut adapters = self.adapters();
        match index < adapters.len() {
            true => Ok(adapters.swap_remove(index)),
            false => Err(DeviceError::NoAdapter {
                device,
                count: adapters.len(),
            }),
        }
    }
}

/// Whether the adapter is there.
pub(super) fn find(device: DeviceSpec, index: usize) -> Result<(), DeviceError> {
    driver().find(device, index).map(drop)
}

/// Opens the adapter; once: later calls give the same device.
pub(super) fn open(device: DeviceSpec, index: usize) -> Result<Device, DeviceError> {
    let mut driver = driver();
    if let Some(opened) = driver.opened.get(&index) {
        return Ok(opened.clone());
    }
    let found = driver.find(device, index)?;
    let options = Device::wgpu_options()
        .device_kind(found.kind)
        .graphics_api(found.interface);
    let opened = options.init().map_err(|error| DeviceError::Refused {
        device,
        name: found.adapter.get_info().name,
        reason: error.to_string(),
    })?;
    driver.opened.insert(index, opened.clone());
    Ok(opened)
}

/// The adapters there are.
pub(super) fn list() -> Result<Vec<Accelerator>, DeviceError> {
    let found = driver().adapters();
    if found.is_empty() {
        let device = DeviceSpec::Wgpu(0);
        return Err(DeviceError::NoAdapter { device, count: 0 });
    }
    Ok(found.iter().enumerate().map(describe).collect())
}

fn describe((index, found): (usize, &Found)) -> Accelerator {
    let info = found.adapter.get_info();
    let driver = [&info.driver, &info.driver_info].map(|text| text.trim());
    let driver: Vec<&str> = driver.into_iter().filter(|text| !text.is_empty()).collect();
    let runs = match info.device_type {
        DeviceType::Cpu => " (runs on the processor)",
        _ => "",
    };
    Accelerator {
        device: DeviceSpec::Wgpu(index),
        name: info.name + runs,
        driver: format!("{:?} {}", info.backend, driver.join(" ")),
        memory: memory(&found.adapter),
    }
}

/// Gives the adapters an order and burn's names: burn counts each type for itself. It reaches only the first adapter that
/// runs on the processor.
fn ordered(adapters: Vec<Adapter>, interface: WgpuBackend) -> Vec<Found> {
    type Kind = fn(usize) -> DeviceKind;
    let types: [(DeviceType, Kind, usize); 4] = [
        (DeviceType::DiscreteGpu, DeviceKind::DiscreteGpu, usize::MAX),
        (
            DeviceType::IntegratedGpu,
            DeviceKind::IntegratedGpu,
            usize::MAX,
        ),
        (DeviceType::VirtualGpu, DeviceKind::VirtualGpu, usize::MAX),
        (DeviceType::Cpu, |_| DeviceKind::Cpu, 1),
    ];
    let of_type = |(kind, name, most): (DeviceType, Kind, usize)| {
        let alike = adapters
            .iter()
            .filter(move |adapter| adapter.get_info().device_type == kind);
        let found = alike
            .take(most)
            .enumerate()
            .map(move |(index, adapter)| Found {
                adapter: adapter.clone(),
                interface,
                kind: name(index),
            });
        found.collect::<Vec<_>>()
    };
    types.into_iter().flat_map(of_type).collect()
}

/// With the second adapter that [`SOFTWARE_DEVICES`] asks for. burn's default device is the same adapter, and another device
/// to burn.
fn doubled(mut adapters: Vec<Found>) -> Vec<Found> {
    let asked = std::env::var_os(SOFTWARE_DEVICES).is_some_and(|count| count == "2");
    if let ([only], true) = (&adapters[..], asked)
        && only.adapter.get_info().device_type == DeviceType::Cpu
    {
        let second = Found {
            adapter: only.adapter.clone(),
            interface: only.interface,
            kind: DeviceKind::DefaultDevice,
        };
        adapters.push(second);
    }
    adapters
}

/// The result of something that does not wait: outside a browser, listing adapters is done when it is asked for.
fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// Bytes of memory that belong to the device itself, as Vulkan lists them.
#[cfg(any(target_os = "linux", target_os = "windows"))]
fn memory(adapter: &Adapter) -> Option<u64> {
    use burn::tensor::wgpu::wgpu::hal::api::Vulkan;
    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT` (Vulkan 1.0, `VkMemoryHeapFlagBits`).
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the two handles are used as long as the guard lives, and nothing is destroyed.
    let memory = unsafe {
        let vulkan = adapter.as_hal::<Vulkan>()?;
        let instance = vulkan.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(vulkan.raw_physical_device())
    };
    let heaps = memory
        .memory_heaps
        .iter()
        .take(memory.memory_heap_count as usize);
    let local = heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0);
    Some(local.map(|heap| heap.size).sum())
}

#[cfg(not(any(target_os = "linux", target_os = "windows")))]
fn memory(_adapter: &Adapter) -> Option<u64> {
    None
}

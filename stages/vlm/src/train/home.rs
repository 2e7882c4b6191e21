//! Where the optimiser keeps what it keeps of a weight.

use burn::tensor::Tensor;
use dcsft_tensor::host::on_host;

/// Where that is, and where the weight is updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// In this process's memory, by the CPU.
    Process,
    /// On the weight's own device, by that.
    Device,
}

impl Home {
    /// Of a weight's; `offload` wants nothing of it on a device.
    pub(crate) fn of(value: &Tensor<2>, offload: bool) -> Self {
        match offload || on_host(value) {
            true => Self::Process,
            false => Self::Device,
        }
    }
}

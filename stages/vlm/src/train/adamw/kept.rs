//! What the optimiser keeps of a weight.

use burn::tensor::{DType, Tensor};
use dcsft_tensor::host::on_host;

use crate::train::master::Master;

/// The moments of one weight, in 32 bits whatever the weight is, where its values are.
#[derive(Clone)]
pub(crate) enum Moments {
    Host { first: Vec<f32>, second: Vec<f32> },
    Device(Box<[Tensor<2>; 2]>),
}

/// What the optimiser keeps of one weight.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) moments: Moments,
    pub(crate) master: Master,
}

impl Moments {
    pub(crate) fn zeros(value: &Tensor<2>) -> Self {
        if on_host(value) {
            let zeros = vec![0.0; value.shape().num_elements()];
            Self::Host {
                first: zeros.clone(),
                second: zeros,
            }
        } else {
            let zeros = value.clone().inner().cast(DType::F32).zeros_like();
            Self::Device(Box::new([zeros.clone(), zeros]))
        }
    }
}

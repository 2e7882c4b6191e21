//! What the optimiser keeps of a weight.

use burn::tensor::{DType, Tensor};

use crate::train::home::Home;
use crate::train::master::Master;

/// The moments of one weight, in 32 bits whatever the weight is.
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

impl Kept {
    /// Of a weight before its first update.
    pub(crate) fn new(value: &Tensor<2>, home: Home) -> Self {
        Self {
            moments: Moments::zeros(value, home),
            master: Master::of(value, home),
        }
    }
}

impl Moments {
    fn zeros(value: &Tensor<2>, home: Home) -> Self {
        match home {
            Home::Process => {
                let zeros = vec![0.0; value.shape().num_elements()];
                Self::Host {
                    first: zeros.clone(),
                    second: zeros,
                }
            }
            Home::Device => {
                let zeros = value.clone().inner().cast(DType::F32).zeros_like();
                Self::Device(Box::new([zeros.clone(), zeros]))
            }
        }
    }
}

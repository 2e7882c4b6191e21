//! Gradients as the optimiser takes them, and their norm.

use burn::tensor::{DType, Tensor};
use dcsft_tensor::host::on_host;
use dcsft_tensor::ops::sums_of_squares;
use dcsft_tensor::params::Param;

use crate::train::error::TrainError;
use crate::train::floats::floats;

/// A weight's gradient.
pub(super) enum Gradient {
    /// In this process's memory.
    Host(Vec<f32>),
    /// On a device, or in 16 bits: widened where it is used, one weight at a time.
    Tensor(Box<Tensor<2>>),
}

impl Gradient {
    pub(super) fn read(param: &Param, gradient: Option<Tensor<2>>) -> Result<Self, TrainError> {
        let gradient = gradient.unwrap_or_else(|| param.value.clone().inner().zeros_like());
        match on_host(&gradient) && gradient.dtype() == DType::F32 {
            true => floats(gradient, || gradient_of(&param.name)).map(Self::Host),
            false => Ok(Self::Tensor(Box::new(gradient))),
        }
    }

    pub(super) fn values(self, name: &str) -> Result<Vec<f32>, TrainError> {
        match self {
            Self::Host(values) => Ok(values),
            Self::Tensor(tensor) => floats(*tensor, || gradient_of(name)),
        }
    }
}

fn gradient_of(name: &str) -> String {
    format!("the gradient of {name}")
}

/// Square root of the sum of all squares.
pub(super) fn norm(gradients: &[Gradient]) -> Result<f64, TrainError> {
    let mut sum = 0.0;
    let mut on_device: Vec<&Tensor<2>> = Vec::new();
    for gradient in gradients {
        match gradient {
            Gradient::Host(values) => sum += sum_of_squares(values),
            Gradient::Tensor(tensor) if on_host(tensor) => {
                let values = floats((**tensor).clone(), || "a gradient".to_owned())?;
                sum += sum_of_squares(&values);
            }
            Gradient::Tensor(tensor) => on_device.push(tensor),
        }
    }
    if !on_device.is_empty() {
        let sums = floats(sums_of_squares(&on_device), || {
            "the gradient norms".to_owned()
        })?;
        sum += sums.into_iter().map(f64::from).sum::<f64>();
    }
    Ok(libm::sqrt(sum))
}

/// Sum of squares in double precision over eight fixed lanes, which the compiler turns into vector code.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    for chunk in values.chunks(8) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    lanes.iter().sum::<f64>()
}

//! AdamW with global-norm clipping, as `torch.optim.AdamW` after `clip_grad_norm_`.
//!
//! On the CPU device one pass over plain slices updates weight and moments in place; on other devices the same
//! formula runs as tensor operations. All sums run in a fixed order, so the result does not depend on threads.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::params::{Param, ParamSet};
use crate::train::error::TrainError;

/// Settings of the optimiser that stay the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay of the params that are subject to it.
    pub weight_decay: f64,
    /// The gradient is scaled down to this global norm; 0 switches clipping off.
    pub max_grad_norm: f64,
}

/// The moments of one weight, where its values are.
#[derive(Clone)]
pub(crate) enum Moments {
    Host { first: Vec<f32>, second: Vec<f32> },
    Device(Box<[Tensor<2>; 2]>),
}

/// AdamW over the trainable weights of one or more [`ParamSet`]s, always given in the same order.
pub struct AdamW {
    settings: AdamWSettings,
    pub(crate) steps: u64,
    pub(crate) moments: Vec<Moments>,
}

/// Factors of one update, the same for all weights.
struct Update {
    rate: f64,
    clip: f64,
    betas: [f64; 2],
    eps: f64,
    /// `1 - beta^step` of both moments.
    corrections: [f64; 2],
}

impl AdamW {
    /// An optimiser before its first step.
    pub fn new(settings: AdamWSettings) -> Self {
        Self {
            settings,
            steps: 0,
            moments: Vec::new(),
        }
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Updates the trainable weights and returns the gradient's global norm before clipping.
    ///
    /// `gradients` holds one entry per trainable weight in the order of `sets`; a weight that the loss did not
    /// reach (`None`) is updated as with a gradient of zeros. If the norm is not finite nothing is updated.
    ///
    /// # Errors
    /// [`TrainError::Device`] where a tensor cannot be read back.
    ///
    /// # Panics
    /// If `gradients` has another length than there are trainable weights.
    pub fn step(
        &mut self,
        sets: &mut [&mut ParamSet],
        gradients: Vec<Option<Tensor<2>>>,
        rate: f64,
    ) -> Result<f64, TrainError> {
        let params: Vec<&mut Param> = trainable(sets).collect();
        assert_eq!(
            params.len(),
            gradients.len(),
            "one gradient per trainable weight"
        );
        let gradients: Vec<Gradient> = params
            .iter()
            .zip(gradients)
            .map(|(param, gradient)| Gradient::read(param, gradient))
            .collect::<Result<_, _>>()?;
        let norm = norm(&gradients)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.start(&params);
        self.steps += 1;
        let update = self.update(rate, norm);
        for ((param, gradient), moments) in params.into_iter().zip(gradients).zip(&mut self.moments)
        {
            let factors = update.factors(if param.decay {
                self.settings.weight_decay
            } else {
                0.0
            });
            match (gradient, moments) {
                (Gradient::Host(gradient), Moments::Host { first, second }) => {
                    factors.update_host(param, &gradient, first, second)?;
                }
                (Gradient::Device(gradient), Moments::Device(moments)) => {
                    factors.update_device(param, *gradient, moments);
                }
                _ => return Err(moved(param)),
            }
        }
        Ok(norm)
    }

    fn start(&mut self, params: &[&mut Param]) {
        if self.moments.is_empty() {
            self.moments = params
                .iter()
                .map(|param| Moments::zeros(&param.value))
                .collect();
        }
    }

    fn update(&self, rate: f64, norm: f64) -> Update {
        let AdamWSettings {
            betas,
            eps,
            max_grad_norm,
            ..
        } = self.settings;
        let clip = if max_grad_norm > 0.0 {
            (max_grad_norm / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        let corrections = betas.map(|beta| 1.0 - libm::pow(beta, self.steps as f64));
        Update {
            rate,
            clip,
            betas,
            eps,
            corrections,
        }
    }
}

/// The trainable weights of all sets, in order.
pub(crate) fn trainable<'a>(sets: &'a mut [&mut ParamSet]) -> impl Iterator<Item = &'a mut Param> {
    sets.iter_mut()
        .flat_map(|set| set.iter_mut())
        .filter(|param| param.trainable)
}

/// Whether a tensor's values are 32-bit floats in this process's memory.
pub(crate) fn on_host(tensor: &Tensor<2>) -> bool {
    tensor.device() == Device::flex() && tensor.dtype() == DType::F32
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
            // Moments are in 32 bits whatever the weights are.
            let zeros = value.clone().inner().cast(DType::F32).zeros_like();
            Self::Device(Box::new([zeros.clone(), zeros]))
        }
    }
}

/// A weight's gradient, where its values are.
enum Gradient {
    Host(Vec<f32>),
    Device(Box<Tensor<2>>),
}

impl Gradient {
    fn read(param: &Param, gradient: Option<Tensor<2>>) -> Result<Self, TrainError> {
        let gradient = gradient.unwrap_or_else(|| param.value.clone().inner().zeros_like());
        if on_host(&param.value) {
            floats(gradient, || format!("the gradient of {}", param.name)).map(Self::Host)
        } else {
            Ok(Self::Device(Box::new(gradient.cast(DType::F32))))
        }
    }
}

/// Square root of the sum of all squares.
fn norm(gradients: &[Gradient]) -> Result<f64, TrainError> {
    let mut sum = 0.0;
    let mut on_device: Vec<Tensor<1>> = Vec::new();
    for gradient in gradients {
        match gradient {
            Gradient::Host(values) => sum += sum_of_squares(values),
            Gradient::Device(tensor) => on_device.push(tensor.clone().powi_scalar(2).sum()),
        }
    }
    if !on_device.is_empty() {
        let sums = floats(Tensor::cat(on_device, 0).unsqueeze::<2>(), || {
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
    lanes.iter().sum()
}

/// Reads a tensor into memory; without a copy where nothing else holds it.
pub(crate) fn floats(tensor: Tensor<2>, what: impl Fn() -> String) -> Result<Vec<f32>, TrainError> {
    let failed = |problem: String| TrainError::Device {
        what: what(),
        problem,
    };
    let data = tensor
        .try_into_data_as::<f32>()
        .map_err(|error| failed(error.to_string()))?;
    data.try_into_vec::<f32>()
        .map_err(|error| failed(error.to_string()))
}

impl Update {
    fn factors(&self, decay: f64) -> Factors {
        Factors {
            clip: self.clip as f32,
            keep: (1.0 - self.rate * decay) as f32,
            first: (1.0 - self.betas[0]) as f32,
            second: (1.0 - self.betas[1]) as f32,
            second_keep: self.betas[1] as f32,
            step: (self.rate / self.corrections[0]) as f32,
            root: libm::sqrt(self.corrections[1]) as f32,
            eps: self.eps as f32,
        }
    }
}

/// What the inner loop multiplies with:
/// `value * keep`, `first` and `second` towards the gradient and its square, then
/// `value -= step * first / (sqrt(second) / root + eps)`, in torch's order of operations.
struct Factors {
    clip: f32,
    keep: f32,
    first: f32,
    second: f32,
    second_keep: f32,
    step: f32,
    root: f32,
    eps: f32,
}

impl Factors {
    fn update_host(
        &self,
        param: &mut Param,
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) -> Result<(), TrainError> {
        let (shape, device) = (param.value.shape(), param.value.device());
        // The weight leaves its place while it is updated, so that its memory is reused instead of copied.
        let value = std::mem::replace(&mut param.value, Tensor::zeros([1, 1], &device));
        let mut value = floats(value.inner(), || param.name.clone())?;
        for (((value, gradient), first), second) in
            value.iter_mut().zip(gradient).zip(first).zip(second)
        {
            let gradient = gradient * self.clip;
            *value *= self.keep;
            *first += (gradient - *first) * self.first;
            *second = *second * self.second_keep + gradient * gradient * self.second;
            *value -= self.step * *first / (second.sqrt() / self.root + self.eps);
        }
        param.value = Tensor::<2>::from_data(TensorData::new(value, shape), &device)
            .autodiff()
            .require_grad();
        Ok(())
    }

    fn update_device(
        &self,
        param: &mut Param,
        gradient: Tensor<2>,
        [first, second]: &mut [Tensor<2>; 2],
    ) {
        let gradient = gradient.mul_scalar(self.clip);
        *first = first.clone() + (gradient.clone() - first.clone()).mul_scalar(self.first);
        *second = second.clone().mul_scalar(self.second_keep)
            + gradient.powi_scalar(2).mul_scalar(self.second);
        let denominator = second
            .clone()
            .sqrt()
            .div_scalar(self.root)
            .add_scalar(self.eps);
        let own = param.value.dtype();
        let value = param
            .value
            .clone()
            .inner()
            .cast(DType::F32)
            .mul_scalar(self.keep);
        param.value = (value - first.clone().mul_scalar(self.step) / denominator)
            .cast(own)
            .autodiff()
            .require_grad();
    }
}

fn moved(param: &Param) -> TrainError {
    TrainError::Device {
        what: param.name.clone(),
        problem: "the weight was moved to another device between steps".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::{Factors, floats};
    use crate::params::Param;

    #[test]
    fn the_tensor_formula_gives_the_slices_result() {
        let tensor = |values: [f32; 4]| Tensor::<2>::from_floats([values], &Device::flex());
        let read = |tensor: &Tensor<2>| {
            floats(tensor.clone().inner(), || "a test".to_owned()).expect("values")
        };
        let param = || Param {
            name: "w".to_owned(),
            value: tensor([0.5, -1.0, 2.0, 0.0]).autodiff().require_grad(),
            trainable: true,
            decay: true,
        };
        let factors = Factors {
            clip: 0.5,
            keep: 0.999,
            first: 0.1,
            second: 0.02,
            second_keep: 0.98,
            step: 0.03,
            root: 0.7,
            eps: 1e-8,
        };
        let gradients = [
            [1.0, -2.0, 0.25, 0.0],
            [-3.0, 0.5, 0.0, 1e-3],
            [0.1, 0.2, -0.3, 0.4],
        ];
        let (mut host, mut device) = (param(), param());
        let (mut first, mut second) = ([0.0; 4], [0.0; 4]);
        let mut moments = [tensor([0.0; 4]), tensor([0.0; 4])];
        for gradient in gradients {
            factors
                .update_host(&mut host, &gradient, &mut first, &mut second)
                .expect("an update");
            factors.update_device(&mut device, tensor(gradient), &mut moments);
        }
        let pairs = [
            (read(&host.value), read(&device.value)),
            (first.to_vec(), read(&moments[0])),
            (second.to_vec(), read(&moments[1])),
        ];
        for (slices, tensors) in pairs {
            for (slice, tensor) in slices.iter().zip(&tensors) {
                assert!(
                    (slice - tensor).abs() <= 1e-6 * slice.abs().max(1e-3),
                    "{slice} {tensor}"
                );
            }
        }
        assert!(device.value.is_require_grad());
    }
}

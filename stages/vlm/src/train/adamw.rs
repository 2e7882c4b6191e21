//! AdamW with global-norm clipping, as `torch.optim.AdamW` after `clip_grad_norm_`.
//!
//! On the CPU device one pass over plain slices updates weight and moments in place; on other devices the same
//! formula runs as tensor operations. All sums run in a fixed order, so the result does not depend on threads. Weights
//! of 16 bits are updated in 32 ([`Master`]).

use burn::tensor::{DType, Tensor};
use dcsft_tensor::host::{self, CopyError, on_host};
use dcsft_tensor::params::{Param, ParamSet};

use crate::train::error::TrainError;
use crate::train::master::{Master, Place};

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

/// AdamW over the trainable weights of one or more [`ParamSet`]s, always given in the same order.
pub struct AdamW {
    settings: AdamWSettings,
    pub(crate) steps: u64,
    pub(crate) kept: Vec<Kept>,
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
            kept: Vec::new(),
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
        for ((param, gradient), kept) in params.into_iter().zip(gradients).zip(&mut self.kept) {
            let factors = update.factors(if param.decay {
                self.settings.weight_decay
            } else {
                0.0
            });
            match (gradient, &mut kept.moments) {
                (gradient, Moments::Host { first, second }) if on_host(&param.value) => {
                    let gradient = gradient.values(&param.name)?;
                    factors.update_host(param, &gradient, first, second, &mut kept.master)?;
                }
                (Gradient::Tensor(gradient), Moments::Device(moments)) => {
                    factors.update_device(param, *gradient, moments, &mut kept.master);
                }
                _ => return Err(moved(param)),
            }
        }
        Ok(norm)
    }

    fn start(&mut self, params: &[&mut Param]) {
        if self.kept.is_empty() {
            let kept = |param: &&mut Param| Kept {
                moments: Moments::zeros(&param.value),
                master: Master::of(&param.value),
            };
            self.kept = params.iter().map(kept).collect();
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

/// A weight's gradient.
enum Gradient {
    /// In this process's memory.
    Host(Vec<f32>),
    /// On a device, or in 16 bits: widened where it is used, one weight at a time.
    Tensor(Box<Tensor<2>>),
}

impl Gradient {
    fn read(param: &Param, gradient: Option<Tensor<2>>) -> Result<Self, TrainError> {
        let gradient = gradient.unwrap_or_else(|| param.value.clone().inner().zeros_like());
        match on_host(&gradient) && gradient.dtype() == DType::F32 {
            true => floats(gradient, || gradient_of(&param.name)).map(Self::Host),
            false => Ok(Self::Tensor(Box::new(gradient))),
        }
    }

    fn values(self, name: &str) -> Result<Vec<f32>, TrainError> {
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
fn norm(gradients: &[Gradient]) -> Result<f64, TrainError> {
    let mut sum = 0.0;
    let mut on_device: Vec<Tensor<1>> = Vec::new();
    for gradient in gradients {
        match gradient {
            Gradient::Host(values) => sum += sum_of_squares(values),
            Gradient::Tensor(tensor) if on_host(tensor) => {
                let values = floats((**tensor).clone(), || "a gradient".to_owned())?;
                sum += sum_of_squares(&values);
            }
            Gradient::Tensor(tensor) => on_device.push(square_sum(tensor)),
        }
    }
    if !on_device.is_empty() {
        let sums = floats(Tensor::cat(on_device, 0), || {
            "the gradient norms".to_owned()
        })?;
        sum += sums.into_iter().map(f64::from).sum::<f64>();
    }
    Ok(libm::sqrt(sum))
}

/// Sum of squares on another device than the CPU.
fn square_sum(tensor: &Tensor<2>) -> Tensor<1> {
    tensor.clone().cast(DType::F32).powi_scalar(2).sum()
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

/// Reads a tensor into memory; without a copy where nothing else holds it.
pub(crate) fn floats<const D: usize>(
    tensor: Tensor<D>,
    what: impl Fn() -> String,
) -> Result<Vec<f32>, TrainError> {
    host::values(tensor).map_err(|CopyError(problem)| TrainError::Device {
        what: what(),
        problem,
    })
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
        master: &mut Master,
    ) -> Result<(), TrainError> {
        // The weight leaves its place while it is updated, so that its memory is reused instead of copied.
        let nothing = Tensor::zeros([1, 1], &param.value.device());
        let own = std::mem::replace(&mut param.value, nothing);
        let place = Place::of(&own);
        let mut value = master.take_values(own, &param.name)?;
        for (((value, gradient), first), second) in
            value.iter_mut().zip(gradient).zip(first).zip(second)
        {
            let gradient = gradient * self.clip;
            *value *= self.keep;
            *first += (gradient - *first) * self.first;
            *second = *second * self.second_keep + gradient * gradient * self.second;
            *value -= self.step * *first / (second.sqrt() / self.root + self.eps);
        }
        param.value = master.set(value, &place).autodiff().require_grad();
        Ok(())
    }

    fn update_device(
        &self,
        param: &mut Param,
        gradient: Tensor<2>,
        [first, second]: &mut [Tensor<2>; 2],
        master: &mut Master,
    ) {
        let gradient = gradient.cast(DType::F32).mul_scalar(self.clip);
        *first = first.clone() + (gradient.clone() - first.clone()).mul_scalar(self.first);
        *second = second.clone().mul_scalar(self.second_keep)
            + gradient.powi_scalar(2).mul_scalar(self.second);
        let denominator = second
            .clone()
            .sqrt()
            .div_scalar(self.root)
            .add_scalar(self.eps);
        let value = match master {
            Master::Whole(whole) => whole.clone(),
            Master::Own | Master::Low(_) => param.value.clone().inner(),
        };
        let value = value.mul_scalar(self.keep) - first.clone().mul_scalar(self.step) / denominator;
        let own = param.value.dtype();
        param.value = value.clone().cast(own).autodiff().require_grad();
        if let Master::Whole(whole) = master {
            *whole = value;
        }
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
    use burn::tensor::{DType, Device, Tensor};

    use super::{Factors, floats};
    use crate::train::master::Master;
    use dcsft_tensor::params::Param;

    /// A weight of three numbers, and how it is updated.
    type Run<'a> = (
        &'a str,
        DType,
        &'a dyn Fn(&mut Param, [f32; 3], &mut Master),
    );

    #[test]
    fn a_weight_of_sixteen_bits_moves_by_steps_that_are_smaller_than_its_last_bit() {
        let tensor = |values: [f32; 3]| Tensor::<2>::from_floats([values], &Device::flex());
        let factors = Factors {
            clip: 1.0,
            keep: 1.0,
            first: 1.0,
            second: 1.0,
            second_keep: 0.0,
            step: 1e-5,
            root: 1.0,
            eps: 0.0,
        };
        let host = |param: &mut Param, gradient: [f32; 3], master: &mut Master| {
            let (mut first, mut second) = ([0.0; 3], [0.0; 3]);
            factors
                .update_host(param, &gradient, &mut first, &mut second, master)
                .expect("an update");
        };
        let device = |param: &mut Param, gradient: [f32; 3], master: &mut Master| {
            let mut moments = [tensor([0.0; 3]), tensor([0.0; 3])];
            factors.update_device(param, tensor(gradient), &mut moments, master);
        };
        let runs: [Run; 3] = [
            ("32 bits", DType::F32, &host),
            ("slices", DType::BF16, &host),
            ("tensors", DType::BF16, &device),
        ];
        let moved = runs.map(|(what, dtype, update)| {
            let value = tensor([1.0, -0.5, 0.125]).cast(dtype);
            let mut param = Param {
                name: what.to_owned(),
                value: value.autodiff().require_grad(),
                trainable: true,
                decay: true,
            };
            let mut master = match what {
                "tensors" => Master::Whole(tensor([1.0, -0.5, 0.125])),
                _ => Master::of(&param.value),
            };
            // Below 1 bf16 goes in steps of 2^-8, as much as 390 of these.
            let mut at = Vec::new();
            for step in 1..=600 {
                update(&mut param, [1.0, -2.0, 0.5], &mut master);
                assert_eq!(param.value.dtype(), dtype, "{what}");
                if step % 300 == 0 {
                    let value = param.value.clone();
                    let exact = master.take_values(value.clone(), what).expect("values");
                    let model = floats(value.inner(), || what.to_owned()).expect("values");
                    at.push((exact, model[0]));
                }
            }
            at
        });
        let [exact, slices, tensors] = moved;
        for ((exact, slices), tensors) in exact.iter().zip(&slices).zip(&tensors) {
            assert_eq!(exact.0, slices.0);
            for (slice, tensor) in slices.0.iter().zip(&tensors.0) {
                assert!((slice - tensor).abs() < 1e-6, "{slice} {tensor}");
            }
            assert_eq!(slices.1, tensors.1);
        }
        // What the model sees is the value, rounded.
        assert_eq!([slices[0].1, slices[1].1], [0.996_093_75, 0.992_187_5]);
    }

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
                .update_host(
                    &mut host,
                    &gradient,
                    &mut first,
                    &mut second,
                    &mut Master::Own,
                )
                .expect("an update");
            factors.update_device(
                &mut device,
                tensor(gradient),
                &mut moments,
                &mut Master::Own,
            );
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

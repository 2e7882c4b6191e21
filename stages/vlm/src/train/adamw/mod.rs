//! AdamW with global-norm clipping, as `torch.optim.AdamW` after `clip_grad_norm_`.
//!
//! On the CPU device one pass over plain slices updates weight and moments in place; on other devices the same
//! formula runs as one kernel, or, to keep the moments off the device, as that pass all the same, on weights and gradients
//! that are copied for it one by one. All sums run in a fixed order, so the result does not depend on threads. Weights
//! of 16 bits are updated in 32 ([`Master`]).

mod factors;
mod gradient;
mod kept;

use burn::tensor::Tensor;
use dcsft_tensor::params::{Param, ParamSet};

use crate::train::error::TrainError;
use crate::train::home::Home;

use factors::{Update, update_device, update_host};
use gradient::{Gradient, norm};
pub(crate) use kept::{Kept, Moments};

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
    /// Keep in this process's memory what the optimiser keeps of weights on a device, and update them here.
    pub offload: bool,
}

/// AdamW over the trainable weights of one or more [`ParamSet`]s, always given in the same order.
pub struct AdamW {
    pub(crate) settings: AdamWSettings,
    pub(crate) steps: u64,
    pub(crate) kept: Vec<Kept>,
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
            let home = Home::of(&param.value, self.settings.offload);
            match (gradient, &mut kept.moments) {
                (gradient, Moments::Host { first, second }) if home == Home::Process => {
                    let gradient = gradient.values(&param.name)?;
                    update_host(&factors, param, &gradient, first, second, &mut kept.master)?;
                }
                (Gradient::Tensor(gradient), Moments::Device(moments)) => {
                    update_device(&factors, param, *gradient, moments, &mut kept.master);
                }
                _ => return Err(moved(param)),
            }
        }
        Ok(norm)
    }

    fn start(&mut self, params: &[&mut Param]) {
        if self.kept.is_empty() {
            let offload = self.settings.offload;
            let kept =
                |param: &&mut Param| Kept::new(&param.value, Home::of(&param.value, offload));
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

fn moved(param: &Param) -> TrainError {
    TrainError::Device {
        what: param.name.clone(),
        problem: "the weight was moved to another device between steps".to_owned(),
    }
}

//! The formula of an update: one pass over plain slices, or the same as tensor operations.

use burn::tensor::{DType, Tensor};
use dcsft_tensor::ops::{AdamWFactors, adamw};
use dcsft_tensor::params::Param;
use rayon::prelude::*;

use crate::train::error::TrainError;
use crate::train::master::{Master, Place};

/// Factors of one update, the same for all weights.
pub(super) struct Update {
    pub(super) rate: f64,
    pub(super) clip: f64,
    pub(super) betas: [f64; 2],
    pub(super) eps: f64,
    /// `1 - beta^step` of both moments.
    pub(super) corrections: [f64; 2],
}

impl Update {
    pub(super) fn factors(&self, decay: f64) -> AdamWFactors {
        AdamWFactors {
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

/// Values that one thread updates at a time.
const PIECE: usize = 1 << 16;

/// Updates a weight in this process's memory, wherever the weight itself is.
pub(super) fn update_host(
    factors: &AdamWFactors,
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
    let moments = first
        .par_chunks_mut(PIECE)
        .zip(second.par_chunks_mut(PIECE));
    let values = value.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE));
    values
        .zip(moments)
        .for_each(|((value, gradient), (first, second))| {
            update_values(factors, value, gradient, first, second);
        });
    param.value = master.set(value, &place).autodiff().require_grad();
    Ok(())
}

fn update_values(
    factors: &AdamWFactors,
    value: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    for (((value, gradient), first), second) in
        value.iter_mut().zip(gradient).zip(first).zip(second)
    {
        let gradient = gradient * factors.clip;
        *value *= factors.keep;
        *first += (gradient - *first) * factors.first;
        *second = *second * factors.second_keep + gradient * gradient * factors.second;
        *value -= factors.step * *first / (second.sqrt() / factors.root + factors.eps);
    }
}

/// Updates a weight on another device, or one of 16 bits with the value that is kept of it.
pub(super) fn update_device(
    factors: &AdamWFactors,
    param: &mut Param,
    gradient: Tensor<2>,
    moments: &mut [Tensor<2>; 2],
    master: &mut Master,
) {
    // All leave their places while they are updated, so that their memory is used again.
    let take = |tensor: &mut Tensor<2>| std::mem::replace(tensor, gradient.clone());
    let own = param.value.dtype();
    let value = match master {
        Master::Whole(whole) => take(whole),
        Master::Own | Master::Low(_) => take(&mut param.value).inner(),
    };
    let [first, second] = moments.each_mut().map(take);
    let wide = gradient.clone().cast(DType::F32);
    let [value, first, second] = adamw([value, first, second], wide, factors);
    *moments = [first, second];
    param.value = value.clone().cast(own).autodiff().require_grad();
    if let Master::Whole(whole) = master {
        *whole = value;
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor};

    use super::{AdamWFactors, update_device, update_host};
    use crate::train::floats::floats;
    use crate::train::home::Home;
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
        let factors = AdamWFactors {
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
            update_host(&factors, param, &gradient, &mut first, &mut second, master)
                .expect("an update");
        };
        let device = |param: &mut Param, gradient: [f32; 3], master: &mut Master| {
            let mut moments = [tensor([0.0; 3]), tensor([0.0; 3])];
            update_device(&factors, param, tensor(gradient), &mut moments, master);
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
                _ => Master::of(&param.value, Home::Process),
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
        let factors = AdamWFactors {
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
            update_host(
                &factors,
                &mut host,
                &gradient,
                &mut first,
                &mut second,
                &mut Master::Own,
            )
            .expect("an update");
            update_device(
                &factors,
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

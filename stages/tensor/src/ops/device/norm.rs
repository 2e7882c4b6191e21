//! Normalisation of rows. What is kept is the input, and of each row a number or two; all is computed in 32 bits.

use burn::tensor::Tensor;

use super::width::{typed, wide};
use crate::ops::graph::{Rule, plain, record_rule};

/// As [`crate::ops::rms_norm`].
pub fn rms_norm(x: Tensor<2>, scale: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    let inputs = [x, scale.clone()];
    let [x, scale] = inputs.each_ref().map(|input| plain(input.clone()));
    let [out, root] = rms_parts(&x, &scale, epsilon);
    record_rule(inputs, out, || RmsNorm { x, scale, root })
}

/// The normalised rows, and the root of each one's mean square, `[rows, 1]`.
fn rms_parts(x: &Tensor<2>, scale: &Tensor<2>, epsilon: f64) -> [Tensor<2>; 2] {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if !crate::host::on_host(x) {
        return super::kernels::rms_norm(x, scale, epsilon);
    }
    let wide_x = wide(x);
    let root = (mean(wide_x.clone() * wide_x.clone()) + epsilon).sqrt();
    [
        typed(wide_x / root.clone(), x.dtype()) * scale.clone(),
        root,
    ]
}

#[derive(Clone, Debug)]
struct RmsNorm {
    x: Tensor<2>,
    scale: Tensor<2>,
    /// Root of the mean square, `[rows, 1]`.
    root: Tensor<2>,
}

impl Rule<2> for RmsNorm {
    fn gradients(self, grad: Tensor<2>, [of_x, of_scale]: [bool; 2]) -> [Option<Tensor<2>>; 2] {
        let x = of_x.then(|| self.of_x(&grad));
        let normal = || wide(&self.x) / self.root.clone();
        let scale = || summed(wide(&grad) * normal(), &self.scale);
        [x, of_scale.then(scale)]
    }
}

impl RmsNorm {
    fn of_x(&self, grad: &Tensor<2>) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !crate::host::on_host(grad) {
            return super::kernels::norm_gradient(&self.x, &self.scale, grad, None, &self.root);
        }
        let normal = wide(&self.x) / self.root.clone();
        let inner = wide(grad) * wide(&self.scale);
        let along = mean(inner.clone() * normal.clone());
        let gradient = (inner - normal * along) / self.root.clone();
        typed(gradient, self.x.dtype())
    }
}

/// As [`crate::ops::layer_norm`].
pub fn layer_norm(x: Tensor<2>, scale: &Tensor<2>, shift: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    let inputs = [x, scale.clone(), shift.clone()];
    let [x, scale, shift] = inputs.each_ref().map(|input| plain(input.clone()));
    let [out, mean, deviation] = layer_parts(&x, [&scale, &shift], epsilon);
    record_rule(inputs, out, || LayerNorm {
        x,
        scale,
        mean,
        deviation,
    })
}

/// The normalised rows, and mean and standard deviation of each, `[rows, 1]`.
fn layer_parts(x: &Tensor<2>, weights: [&Tensor<2>; 2], epsilon: f64) -> [Tensor<2>; 3] {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if !crate::host::on_host(x) {
        return super::kernels::layer_norm(x, weights, epsilon);
    }
    let middle = mean(wide(x));
    let centred = wide(x) - middle.clone();
    let deviation = (mean(centred.clone() * centred.clone()) + epsilon).sqrt();
    let [scale, shift] = weights.map(wide);
    let out = centred / deviation.clone() * scale + shift;
    [typed(out, x.dtype()), middle, deviation]
}

#[derive(Clone, Debug)]
struct LayerNorm {
    x: Tensor<2>,
    scale: Tensor<2>,
    /// Mean and standard deviation of each row, `[rows, 1]`.
    mean: Tensor<2>,
    deviation: Tensor<2>,
}

impl Rule<3> for LayerNorm {
    fn gradients(
        self,
        grad: Tensor<2>,
        [of_x, of_scale, of_shift]: [bool; 3],
    ) -> [Option<Tensor<2>>; 3] {
        let x = of_x.then(|| self.of_x(&grad));
        let grad = wide(&grad);
        let scale = || summed(grad.clone() * self.normal(), &self.scale);
        [
            x,
            of_scale.then(scale),
            of_shift.then(|| summed(grad.clone(), &self.scale)),
        ]
    }
}

impl LayerNorm {
    /// The rows with mean 0 and deviation 1.
    fn normal(&self) -> Tensor<2> {
        (wide(&self.x) - self.mean.clone()) / self.deviation.clone()
    }

    fn of_x(&self, grad: &Tensor<2>) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !crate::host::on_host(grad) {
            let (mean, deviation) = (Some(&self.mean), &self.deviation);
            return super::kernels::norm_gradient(&self.x, &self.scale, grad, mean, deviation);
        }
        let (normal, inner) = (self.normal(), wide(grad) * wide(&self.scale));
        let along = mean(inner.clone() * normal.clone());
        let centred = inner.clone() - mean(inner) - normal * along;
        typed(centred / self.deviation.clone(), self.x.dtype())
    }
}

/// Of each row, `[rows, 1]`.
fn mean(x: Tensor<2>) -> Tensor<2> {
    x.mean_dim(1)
}

/// Over all rows, in the type of the weight.
fn summed(x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    typed(x.sum_dim(0), weight.dtype())
}

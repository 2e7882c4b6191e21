//! What models and trainers are built from: tensor operations on burn, the loops that run them on the CPU, devices,
//! keyed random streams, quantised matrices and named weights. Nothing here knows of models, images or text.

pub mod device;
pub mod host;
mod kernels;
pub mod ops;
pub mod params;
pub mod quant;
pub mod rng;

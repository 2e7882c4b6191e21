//! Dropout on a device, which draws from the samples' keys.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use cubecl::prelude::*;

use super::bits::Bits;
use super::kernel::{OWNER, apply_kernel, draw_kernel};
use super::owner::Owner;
use super::thresholds::thresholds;
use crate::host::send;
use crate::ops::cube::{UNITS, by_dtype, cubes, floats, integers};

/// Inputs above which an input's number, or a step past the last, would not fit a word.
const MOST: u64 = 1 << 31;

/// Cubes of a launch along one axis, as WebGPU promises them.
const SAMPLES: usize = 65_535;

/// Whose inputs they are, on a device.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// `[samples, OWNER]`.
    owners: Tensor<2, Int>,
    /// `[gaps, 2]`.
    thresholds: Tensor<2, Int>,
    inputs: usize,
}

impl Keys {
    /// None where the processor has to draw: too few inputs are dropped for a table, or there are too many.
    pub(super) fn send(
        owners: &[Owner],
        probability: f64,
        inputs: usize,
        device: &Device,
    ) -> Option<Self> {
        if inputs as u64 >= MOST || !(1..=SAMPLES).contains(&owners.len()) {
            return None;
        }
        let thresholds = table(probability, device)?;
        let words = |owner: &Owner| {
            let seed = owner.seed.as_chunks::<4>().0.iter();
            let own = [owner.inputs.start, owner.inputs.end - owner.inputs.start];
            seed.map(|&bytes| u32::from_le_bytes(bytes))
                .chain(own.map(|number| number as u32))
                .collect::<Vec<u32>>()
        };
        let words: Vec<u32> = owners.iter().flat_map(words).collect();
        let words = TensorData::new(words, [owners.len(), OWNER]);
        Some(Self {
            owners: send(words, (device, DType::U32)),
            thresholds,
            inputs,
        })
    }

    /// Draws what is dropped.
    pub(super) fn draw(&self) -> Bits {
        let device = self.owners.device();
        let words = self.inputs.div_ceil(Bits::WORD).max(1);
        let words = Tensor::<2, Int>::full([words, 1], u32::MAX, (&device, DType::U32));
        let owners = integers(&self.owners);
        let client = owners.client.clone();
        draw_kernel::launch(
            &client,
            CubeCount::Static(self.owners.dims()[0] as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            owners.into_tensor_arg(),
            integers(&self.thresholds).into_tensor_arg(),
            integers(&words).into_tensor_arg(),
            UNITS as usize,
        );
        Bits(words)
    }
}

/// What of `x` the bits let stay, times `factor`.
pub(super) fn apply(x: &Tensor<2>, bits: &Bits, factor: f64) -> Tensor<2> {
    let (shape, dtype) = (x.dims(), x.dtype());
    let out = Tensor::<2>::empty(shape, (&x.device(), dtype));
    let count = shape[0] * shape[1];
    if count == 0 {
        return out;
    }
    let x = floats(x);
    let client = x.client.clone();
    by_dtype!(dtype, F => apply_kernel::launch::<F>(
        &client,
        cubes(count.div_ceil(UNITS as usize)),
        CubeDim::new_1d(UNITS),
        x.into_tensor_arg(),
        integers(&bits.0).into_tensor_arg(),
        floats(&out).into_tensor_arg(),
        factor as f32,
    ));
    out
}

/// The thresholds of a probability, which are brought to a device once.
fn table(probability: f64, device: &Device) -> Option<Tensor<2, Int>> {
    type Known = Vec<(f64, Device, Option<Tensor<2, Int>>)>;
    static KNOWN: Mutex<Known> = Mutex::new(Vec::new());
    let device = device.clone().inner();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_it = |(of, on, _): &&(f64, Device, _)| *of == probability && *on == device;
    if let Some((.., table)) = known.iter().find(is_it) {
        return table.clone();
    }
    let table = thresholds(probability).map(|thresholds| {
        let words = thresholds
            .iter()
            .flat_map(|&at| [(at >> 32) as u32, at as u32]);
        let words = TensorData::new(words.collect::<Vec<u32>>(), [thresholds.len(), 2]);
        send(words, (&device, DType::U32))
    });
    known.push((probability, device, table.clone()));
    table
}

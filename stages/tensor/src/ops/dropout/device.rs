//! Dropout on a device, which draws from the samples' keys.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use cubecl::prelude::*;

use super::bits::Bits;
use super::kernel::{DRAWS, SEED, apply_kernel, draw_kernel, sums_kernel};
use super::samples::Drawn;
use super::thresholds::thresholds;
use crate::host::send;
use crate::ops::cube::{UNITS, by_dtype, cubes_for, floats, integers};

/// Inputs above which an input's number, or a step past the last, would not fit a word.
const MOST: u64 = 1 << 31;

/// Cubes of a launch along one axis, as WebGPU promises them.
const ALONG: usize = 65_535;

/// What is drawn from, on a device.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Of all layers of the pass, `[layers * samples, 8]`.
    seeds: Tensor<2, Int>,
    /// Where the rows of each sample begin, and where they end: `[samples + 1]`.
    rows: Tensor<1, Int>,
    /// `[gaps, 2]`.
    thresholds: Tensor<2, Int>,
    layer: usize,
    width: usize,
    inputs: usize,
    samples: usize,
    /// Cubes that share the draws of a sample.
    stretches: usize,
}

impl Keys {
    /// None where the processor has to draw: too few inputs are dropped for a table, or there are too many.
    pub(super) fn send(
        drawn: &Drawn,
        probability: f64,
        inputs: usize,
        device: &Device,
    ) -> Option<Self> {
        let samples = drawn.samples.count();
        if inputs as u64 >= MOST || !(1..=ALONG).contains(&samples) {
            return None;
        }
        let thresholds = table(probability, device)?;
        let words = (&device.clone().inner(), DType::U32);
        let seeds = drawn.samples.sent.get_or_init(|| {
            let seeds = drawn.samples.all_seeds();
            let all = seeds.iter().flat_map(|seed| seed.as_chunks::<4>().0);
            let all = all.map(|&bytes| u32::from_le_bytes(bytes));
            send(TensorData::new(all.collect(), [seeds.len(), SEED]), words)
        });
        let rows = drawn.rows.sent.get_or_init(|| {
            let mut ends = vec![0];
            for &count in &drawn.rows.counts {
                ends.push(ends[ends.len() - 1] + count as u32);
            }
            let count = ends.len();
            send(TensorData::new(ends, [count]), words)
        });
        let longest = drawn.rows.counts.iter().copied().max().unwrap_or(0);
        let draws = (longest * drawn.width) as f64 * probability;
        let stretches = (draws / (UNITS as usize * DRAWS) as f64) as usize + 1;
        Some(Self {
            seeds: seeds.clone(),
            rows: rows.clone(),
            thresholds,
            layer: drawn.layer,
            width: drawn.width,
            inputs,
            samples,
            stretches: stretches.min(ALONG),
        })
    }

    /// Draws what is dropped.
    pub(super) fn draw(&self) -> Bits {
        let on = (&self.seeds.device(), DType::U32);
        let words = self.inputs.div_ceil(Bits::WORD).max(1);
        let words = Tensor::<2, Int>::full([words, 1], u32::MAX, on);
        // Where a stretch begins follows from how far the earlier ones reach.
        let sums = Tensor::<2, Int>::empty([self.samples, self.stretches], on);
        let seeds = integers(&self.seeds);
        let client = seeds.client.clone();
        let cubes = CubeCount::Static(self.samples as u32, self.stretches as u32, 1);
        if self.stretches > 1 {
            sums_kernel::launch(
                &client,
                cubes.clone(),
                CubeDim::new_1d(UNITS),
                seeds.clone().into_tensor_arg(),
                integers(&self.thresholds).into_tensor_arg(),
                integers(&sums).into_tensor_arg(),
                self.layer,
                UNITS as usize,
            );
        }
        draw_kernel::launch(
            &client,
            cubes,
            CubeDim::new_1d(UNITS),
            seeds.into_tensor_arg(),
            integers(&self.rows).into_tensor_arg(),
            integers(&self.thresholds).into_tensor_arg(),
            integers(&sums).into_tensor_arg(),
            integers(&words).into_tensor_arg(),
            self.layer,
            self.width as u32,
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
        cubes_for(count),
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

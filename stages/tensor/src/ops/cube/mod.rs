//! What kernels of ours share: their tensors, how a launch is cut, and one number of all units' numbers.

use burn::backend::Cube;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{Int, Tensor as BurnTensor};
use cubecl::prelude::*;

/// Units of a cube, a power of two. WebGPU promises as many.
pub(in crate::ops) const UNITS: u32 = 256;

/// Does something with the type `$float` that a dtype stands for.
macro_rules! by_dtype {
    ($dtype:expr, $float:ident => $work:expr) => {
        match $dtype {
            burn::tensor::DType::BF16 => {
                type $float = half::bf16;
                $work
            }
            burn::tensor::DType::F16 => {
                type $float = half::f16;
                $work
            }
            burn::tensor::DType::F32 => {
                type $float = f32;
                $work
            }
            other => panic!("models have numbers of 16 or 32 bits, not {other:?}"),
        }
    };
}
pub(in crate::ops) use by_dtype;

const HERE: &str = "a tensor of a device has a device's primitive";

/// What a kernel is given of floats.
pub(in crate::ops) fn floats<const D: usize>(tensor: &BurnTensor<D>) -> FloatTensor<Cube> {
    into_floats(tensor.clone())
}

/// The same, of what nothing else holds where nothing else held the tensor.
pub(in crate::ops) fn into_floats<const D: usize>(tensor: BurnTensor<D>) -> FloatTensor<Cube> {
    tensor.try_into_primitive::<Cube>().expect(HERE)
}

/// What a kernel writes in place, which nothing else may see: the tensor, or a copy of it where something else holds it.
pub(in crate::ops) fn alone<const D: usize>(tensor: BurnTensor<D>) -> FloatTensor<Cube> {
    let tensor = into_floats(tensor);
    match tensor.can_mut() {
        true => tensor,
        false => tensor.copy(),
    }
}

/// What a kernel is given of whole numbers.
pub(in crate::ops) fn integers<const D: usize>(tensor: &BurnTensor<D, Int>) -> IntTensor<Cube> {
    tensor.clone().try_into_primitive::<Cube>().expect(HERE)
}

/// Cubes along one axis of a launch: as many as WebGPU promises.
const ALONG: u32 = 65_535;

/// So many cubes, and at most a row of them more.
///
/// # Panics
/// If there are more than a launch can have.
pub(super) fn cubes(count: usize) -> CubeCount {
    let count = u32::try_from(count)
        .expect("as many as a launch can have")
        .max(1);
    let across = count.min(ALONG);
    CubeCount::Static(across, count.div_ceil(across), 1)
}

/// Cubes of [`UNITS`] for a kernel whose units have a value each.
///
/// # Panics
/// If there are more than a launch can have.
pub(super) fn cubes_for(values: usize) -> CubeCount {
    cubes(values.div_ceil(UNITS as usize))
}

/// The place of a cube among all of a launch by [`cubes`].
#[cube]
pub(in crate::ops) fn cube_index() -> usize {
    (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize
}

/// What is made of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::ops) enum Fold {
    Sum,
    Least,
    Most,
}

/// One number of all units' numbers.
#[cube]
pub(in crate::ops) fn over_units<N: Numeric>(
    value: N,
    unit: usize,
    shared: &mut Shared<[N]>,
    #[comptime] units: usize,
    #[comptime] fold: Fold,
) -> N {
    shared[unit] = value;
    sync_cube();
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width {
            let (own, other) = (shared[unit], shared[unit + width]);
            match comptime!(fold) {
                Fold::Sum => shared[unit] = own + other,
                Fold::Least => {
                    if other < own {
                        shared[unit] = other;
                    }
                }
                Fold::Most => {
                    if other > own {
                        shared[unit] = other;
                    }
                }
            }
        }
        sync_cube();
        width /= 2;
    }
    let result = shared[0];
    sync_cube();
    result
}

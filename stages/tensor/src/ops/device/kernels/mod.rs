//! Kernels of ours in the place of chains of burn's: each reads its inputs once and computes in 32 bits.

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

mod norm;
mod rotary;
mod shares;

pub(super) use norm::{layer_norm, rms_norm};
pub(super) use rotary::rotate;
pub(super) use shares::weights;

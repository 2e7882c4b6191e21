//! Products of 32-bit numbers by burn's kernel that needs no tensor cores. The choice that burn makes itself has those of
//! NVIDIA read such numbers with 10 bits after the point (TF32); PyTorch does not unless it is told to.

use burn::backend::Cube;
use burn::tensor::{DType, Tensor as BurnTensor};
use cubecl::prelude::*;
use cubek::matmul::definition::MatmulElems;
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level::Strategy;
use cubek::std::InputBinding;

use crate::ops::cube::into_floats;

/// `a @ b` of each pair of matrices.
pub(in super::super) fn product<const D: usize>(
    a: BurnTensor<D>,
    b: BurnTensor<D>,
) -> BurnTensor<D> {
    let inner = a.dims()[D - 1];
    let mut shape = a.dims();
    shape[D - 1] = b.dims()[D - 1];
    assert_eq!(b.dims()[D - 2], inner, "as many columns as rows");
    assert_eq!(a.dims()[..D - 2], b.dims()[..D - 2], "as many matrices");
    let kind = (&a.device(), DType::F32);
    if inner == 0 {
        return BurnTensor::zeros(shape, kind);
    }
    let out = BurnTensor::<D>::empty(shape, kind);
    if out.shape().num_elements() == 0 {
        return out;
    }
    let out = into_floats(out);
    let client = out.client.clone();
    let number = f32::elem_type_native();
    let [a, b] = [a, b].map(|factor| InputBinding::new(into_floats(factor).binding(), number));
    launch_ref(
        &Strategy::SimpleUnit(Default::default()).into(),
        &client,
        a,
        b,
        out.clone().binding(),
        &mut MatmulElems::from_single_dtype(number),
    )
    .expect("a product that asks for nothing special of a device");
    BurnTensor::from_primitive::<Cube>(out)
}

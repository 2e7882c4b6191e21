//! New rows of keys and values, each behind those that its sequence has.

use burn::tensor::{Int, Tensor};

use crate::ops::Heads;

/// Puts the keys and values of packed rows, `[slots, (heads.queries + 2 * heads.keys) * head width]`, into their slots: row
/// `written[slot] - 1` of each, in place where nothing else holds them. A slot with `written` 0 stays as it is.
///
/// `own`: keys and values, `[slots, key heads, room, head width]`.
pub(super) fn append(
    own: [Tensor<4>; 2],
    qkv: &Tensor<2>,
    written: &Tensor<1, Int>,
    heads: Heads,
) -> [Tensor<4>; 2] {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if !crate::host::on_host(qkv) {
        return super::kernels::append(own, qkv, written, heads);
    }
    let [slots, keys, room, width] = own[0].dims();
    let places = Tensor::<1, Int>::arange(1..room as i64 + 1, &qkv.device());
    let places: Tensor<2, Int> = places.reshape([1, room]);
    let written: Tensor<2, Int> = written.clone().reshape([slots, 1]);
    let here = places
        .expand([slots, room])
        .equal(written.expand([slots, room]));
    let here = here.reshape([slots, 1, room, 1]).expand(own[0].dims());
    let mut first = heads.queries;
    own.map(|own| {
        let columns = first * width..(first + keys) * width;
        first += keys;
        let new = qkv.clone().slice([0..slots, columns]);
        let new = new
            .reshape([slots, keys, 1, width])
            .expand([slots, keys, room, width]);
        own.mask_where(here.clone(), new)
    })
}

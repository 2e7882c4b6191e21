//! Comparison with the reference's numbers, printed as a table that names the largest difference.

use burn::tensor::{Device, Tensor};
use dcsft_tensor::device::test_device;

/// A tensor's values.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.inner().into_data().convert::<f32>();
    data.iter::<f32>().collect()
}

/// The largest difference of two lists.
pub(crate) fn largest(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len(), "numbers to compare");
    let differences = left.iter().zip(right).map(|(a, b)| (a - b).abs());
    // A NaN must not hide behind `max`.
    differences.fold(0.0, |most, d| if d.is_nan() || d > most { d } else { most })
}

/// Checks that the lists differ by at most `absolute + relative * |right|`, and prints by how much they do.
pub(crate) fn close(what: &str, left: &[f32], right: &[f32], absolute: f32, relative: f32) {
    let largest = largest(left, right);
    let allowed = |right: f32| absolute + relative * right.abs();
    let pairs = left.iter().zip(right);
    let part = pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs() / allowed(*b)));
    println!(
        "{what}: {} numbers, largest difference {largest:.2e}, {part:.2} of what is allowed",
        right.len()
    );
    for (index, (a, b)) in left.iter().zip(right).enumerate() {
        assert!(
            (a - b).abs() <= allowed(*b),
            "{what}: number {index} is {a}, and the reference has {b}"
        );
    }
}

/// Checks what does not depend on how rows were put together: on the CPU to the bit, on a device, where the shape of a
/// product decides in which order it is added up, within what the reference's logits may differ by.
pub(crate) fn same(what: &str, left: &[f32], right: &[f32]) {
    match test_device() == Device::flex() {
        true => assert!(left == right, "{what}"),
        false => close(what, left, right, 1e-4, 0.0),
    }
}

/// Checks a tensor's gradient: the largest difference is at most 1e-4 of its largest value.
pub(crate) fn close_gradient(what: &str, left: &[f32], right: &[f32]) -> f32 {
    let size = right.iter().fold(0f32, |size, value| size.max(value.abs()));
    let difference = largest(left, right);
    assert!(
        difference <= 1e-4 * size,
        "{what}: differs by {difference}, and its largest value is {size}"
    );
    difference / size
}

/// The transpose of a matrix of `columns` columns.
pub(crate) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let column = |c: usize| (0..rows).map(move |r| values[r * columns + c]);
    (0..columns).flat_map(column).collect()
}

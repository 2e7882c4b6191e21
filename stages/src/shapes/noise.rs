//! Normal noise for pixels, from a table: a picture takes hundreds of draws, and pixels have 8 bits.

use std::sync::LazyLock;

use dcsft_tensor::rng::Stream;

const BITS: u32 = 12;
const SIZE: usize = 1 << BITS;
/// Draws out of one 64-bit word.
const PER_WORD: usize = (u64::BITS / BITS) as usize;

/// Quantiles of the standard normal distribution at the middles of `SIZE` equal shares of probability,
/// scaled to variance 1.
static QUANTILES: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let raw: Vec<f64> = (0..SIZE)
        .map(|index| quantile((index as f64 + 0.5) / SIZE as f64))
        .collect();
    let scale = (raw.iter().map(|z| z * z).sum::<f64>() / SIZE as f64).sqrt();
    raw.into_iter().map(|z| z / scale).collect()
});

/// Adds noise of standard deviation `sigma` to each value.
pub(super) fn add(values: &mut [f64], sigma: f64, stream: &mut Stream) {
    let table = &*QUANTILES;
    for group in values.chunks_mut(PER_WORD) {
        let mut word = stream.bits();
        for value in group {
            *value += sigma * table[word as usize % SIZE];
            word >>= BITS;
        }
    }
}

/// The standard normal quantile of probability `p`, by bisection of `libm::erfc`.
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        let below = 0.5 * libm::erfc(-middle * std::f64::consts::FRAC_1_SQRT_2);
        if below < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use dcsft_tensor::rng::StreamKey;

    #[test]
    fn noise_has_the_moments_of_a_normal_distribution() {
        let mut values = vec![0.0; 100_000];
        super::add(&mut values, 2.0, &mut StreamKey::new("noise", 1).stream());
        let moment = |power: i32| {
            values.iter().map(|v: &f64| v.powi(power)).sum::<f64>() / values.len() as f64
        };
        assert!(moment(1).abs() < 0.03, "{}", moment(1));
        assert!((moment(2) - 4.0).abs() < 0.08, "{}", moment(2));
        assert!(
            (moment(4) / moment(2).powi(2) - 3.0).abs() < 0.1,
            "{}",
            moment(4)
        );
    }
}

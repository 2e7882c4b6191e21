//! Vector versions of `exp` and GELU, and sums in a fixed order.

use multiversion::multiversion;

/// Lanes of a sum: the number of partial sums does not depend on the machine.
const LANES: usize = 16;

/// `exp(x)` with a relative error below 2e-7 for results that are normal numbers; zero below, for x > 88.3 the
/// largest power that fits.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by the polynomial of SLEEF's `expf` (1.0 ULP), which PyTorch's softmax
/// and SiLU call on CPUs: the same bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first with few enough bits that n times it is exact.
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    // Adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.985_276_2e-4f32;
    p = p.mul_add(r, 1.393_043_6e-3);
    p = p.mul_add(r, 8.333_361e-3);
    p = p.mul_add(r, 4.166_648_5e-2);
    p = p.mul_add(r, 1.666_666_7e-1);
    p = p.mul_add(r, 5e-1);
    let value = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { value * power }
}

/// The standard normal's distribution function and `exp(-x * x / 2)`, which its density is a multiple of.
///
/// Abramowitz and Stegun, formula 7.1.26: the error of the distribution function is below 1e-7.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let bell = exp(-z * z);
    let t = 1.0 / z.mul_add(0.327_591_1, 1.0);
    let mut p = 1.061_405_4f32;
    p = p.mul_add(t, -1.453_152);
    p = p.mul_add(t, 1.421_413_8);
    p = p.mul_add(t, -0.284_496_74);
    p = p.mul_add(t, 0.254_829_6);
    let tail = 0.5 * p * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

/// Sum over `f(a[i], b[i])`, in sixteen lanes, added pairwise.
#[inline(always)]
pub(super) fn sum_zip(a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = f(lanes[lane], a[lane], b[lane]);
        }
    }
    for (lane, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] = f(lanes[lane], a, b);
    }
    fold(lanes)
}

/// Sum of squares in the order in which PyTorch adds up rows on CPUs: four sums of eight lanes take turns, every
/// [`BLOCK`] turns are summed by themselves; then the four are added, and last the lanes.
#[inline(always)]
pub(super) fn sum_of_squares(row: &[f32]) -> f32 {
    /// Turns after which the sums are put aside.
    const BLOCK: usize = 16;
    let (eights, rest) = row.as_chunks::<8>();
    let (turns, left) = eights.as_chunks::<4>();
    let mut blocks = [[0f32; 8]; 4];
    let mut sums = [[0f32; 8]; 4];
    for (index, turn) in turns.iter().enumerate() {
        for (sums, x) in sums.iter_mut().zip(turn) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += x * x;
            }
        }
        if (index + 1) % BLOCK == 0 {
            for (blocks, sums) in blocks.iter_mut().zip(&mut sums) {
                for (block, sum) in blocks.iter_mut().zip(sums) {
                    *block += *sum;
                    *sum = 0.0;
                }
            }
        }
    }
    for (sums, blocks) in sums.iter_mut().zip(&blocks) {
        for (sum, block) in sums.iter_mut().zip(blocks) {
            *sum += block;
        }
    }
    for x in left {
        for (sum, x) in sums[0].iter_mut().zip(x) {
            *sum += x * x;
        }
    }
    let rest = rest.iter().fold(0.0, |sum, x| sum + x * x);
    let lanes = (0..8).map(|lane| sums[0][lane] + sums[1][lane] + sums[2][lane] + sums[3][lane]);
    lanes.fold(rest, |sum, lane| sum + lane)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `exp(scale * x - scale * shift)` in place, and the sum of the results.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub fn exp_in_place(values: &mut [f32], shift: f32, scale: f32) -> f32 {
    softmax_terms(values, shift, scale)
}

/// As [`exp_in_place`], to be compiled into its caller.
#[inline(always)]
pub(super) fn softmax_terms(values: &mut [f32], shift: f32, scale: f32) -> f32 {
    let shift = shift * scale;
    for value in values.iter_mut() {
        *value = exp(*value * scale - shift);
    }
    sum_zip(values, values, |sum, value, _| sum + value)
}

/// Entropy in nats of `softmax(scale * logits)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn entropy(logits: &[f32], scale: f32) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shift = largest * scale;
    // Sums of w and of w log(w), in which w = exp(scale * logit - shift).
    let (mut total, mut weighted) = ([0f32; LANES], [0f32; LANES]);
    for chunk in logits.chunks(LANES) {
        for (lane, logit) in chunk.iter().enumerate() {
            let log = *logit * scale - shift;
            let weight = exp(log);
            total[lane] += weight;
            // A token of no weight adds nothing, also where its logit is minus infinity.
            weighted[lane] += if weight == 0.0 { 0.0 } else { weight * log };
        }
    }
    let (total, weighted) = (fold(total), fold(weighted));
    libm::log(f64::from(total)) as f32 - weighted / total
}

/// Sum of squares of a row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn squares(row: &[f32]) -> f32 {
    sum_of_squares(row)
}

/// GELU with the exact error function: `out[i] = x[i] * Phi(x[i])`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn gelu(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = x * normal(x).0;
    }
}

/// The gradient before GELU from the one after it: `out[i] = grad[i] * (Phi(x[i]) + x[i] * phi(x[i]))`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn gelu_backward(x: &[f32], grad: &[f32], out: &mut [f32]) {
    /// 1 / sqrt(2 pi).
    const DENSITY: f32 = 0.398_942_3;
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        let (distribution, bell) = normal(x);
        *out = grad * (x * bell).mul_add(DENSITY, distribution);
    }
}

/// GELU by tanh's definition, `0.5 x (1 + tanh(u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`: the value, and its
/// slope.
#[inline(always)]
fn tanh_gelu(x: f32) -> (f32, f32) {
    /// sqrt(2 / pi).
    const ROOT: f32 = 0.797_884_6;
    const CUBE: f32 = 0.044_715;
    let square = x * x;
    let u = ROOT * x * square.mul_add(CUBE, 1.0);
    // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2 u)).
    let gate = 1.0 / (1.0 + exp(-2.0 * u));
    let inner = ROOT * square.mul_add(3.0 * CUBE, 1.0);
    (
        x * gate,
        (2.0 * x * inner * (1.0 - gate)).mul_add(gate, gate),
    )
}

/// GELU with tanh in the place of the error function.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn gelu_tanh(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = tanh_gelu(x).0;
    }
}

/// The gradient before [`gelu_tanh`] from the one after it.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
pub(crate) fn gelu_tanh_backward(x: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        *out = grad * tanh_gelu(x).1;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        exp, exp_in_place, gelu, gelu_backward, gelu_tanh, gelu_tanh_backward, sum_of_squares,
        sum_zip,
    };

    fn grid(low: f32, high: f32) -> impl Iterator<Item = f32> {
        (0..=200_000).map(move |step| low + (high - low) * step as f32 / 200_000.0)
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        for x in grid(-87.0, 88.0) {
            let right = libm::exp(f64::from(x));
            let error = (f64::from(exp(x)) - right).abs() / right;
            assert!(error < 2e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_and_its_derivative_follow_the_error_function() {
        let x: Vec<f32> = grid(-12.0, 12.0).collect();
        let (mut y, mut slope) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        gelu(&x, &mut y);
        gelu_backward(&x, &vec![1.0; x.len()], &mut slope);
        for ((&x, &y), &slope) in x.iter().zip(&y).zip(&slope) {
            let x = f64::from(x);
            let distribution = 0.5 * libm::erfc(-x / 2f64.sqrt());
            let density = libm::exp(-x * x / 2.0) / (2.0 * std::f64::consts::PI).sqrt();
            let error = (f64::from(y) - x * distribution).abs() / x.abs().max(1.0);
            assert!(error < 4e-7, "gelu({x}): error {error}");
            let error = (f64::from(slope) - distribution - x * density).abs();
            assert!(error < 6e-7, "gelu'({x}): error {error}");
        }
    }

    #[test]
    fn gelu_by_tanh_and_its_derivative_follow_their_definition() {
        let x: Vec<f32> = grid(-12.0, 12.0).collect();
        let (mut y, mut slope) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        gelu_tanh(&x, &mut y);
        gelu_tanh_backward(&x, &vec![1.0; x.len()], &mut slope);
        let root = (2.0 / std::f64::consts::PI).sqrt();
        for ((&x, &y), &slope) in x.iter().zip(&y).zip(&slope) {
            let x = f64::from(x);
            let tanh = libm::tanh(root * (x + 0.044715 * x * x * x));
            let error = (f64::from(y) - 0.5 * x * (1.0 + tanh)).abs() / x.abs().max(1.0);
            assert!(error < 4e-7, "gelu({x}): error {error}");
            let inner = root * (1.0 + 3.0 * 0.044715 * x * x);
            let right = 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner;
            let error = (f64::from(slope) - right).abs();
            assert!(error < 2e-6, "gelu'({x}): error {error}");
        }
    }

    #[test]
    fn squares_are_summed_in_turns_blocks_and_lanes() {
        // Whole numbers: every order gives the sum itself, so that none may be left out or taken twice.
        for length in [0, 1, 7, 8, 31, 32, 63, 64, 511, 512, 513, 1024, 1176, 2049] {
            let row: Vec<f32> = (0..length).map(|index| (index % 5) as f32).collect();
            let sum: f32 = row.iter().map(|x| x * x).sum();
            assert_eq!(sum_of_squares(&row), sum, "{length} values");
        }
        // One is lost where it is added to 2^24, and two ones are not: values 0 and 32 are in one sum, 8 and 40 in
        // another.
        let mut row = vec![0f32; 64];
        (row[0], row[32], row[8], row[40]) = (4096.0, 1.0, 1.0, 1.0);
        let (large, kept) = (4096f32 * 4096.0, 2.0);
        assert_eq!(sum_of_squares(&row), large + kept);
    }

    #[test]
    fn the_vector_version_gives_the_scalar_versions_bits() {
        let x: Vec<f32> = grid(-20.0, 20.0).take(1003).collect();
        let mut vector = x.clone();
        let total = exp_in_place(&mut vector, 0.5, 2.0);
        let scalar: Vec<f32> = x.iter().map(|&x| exp(x * 2.0 - 0.5 * 2.0)).collect();
        assert_eq!(vector, scalar);
        assert_eq!(
            total,
            sum_zip(&scalar, &scalar, |sum, value, _| sum + value)
        );
    }
}

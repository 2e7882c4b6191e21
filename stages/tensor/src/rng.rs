//! Keyed random streams.
//!
//! Every random draw of the project is a pure function of what it is *for*: a seed, a purpose and the
//! coordinates of the draw (a sample's ID, a generation's index, a position). No draw depends on how many
//! threads run, how a batch was cut, in which order work was done or whether it was resumed.
//!
//! A stream is ChaCha8 keyed with BLAKE3 over the framed coordinates. Conversions to floats and normals are
//! ours and use `libm`, so that the same stream gives the same bits on every platform.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use rayon::prelude::*;

/// Names one stream of random numbers; build it with [`StreamKey::new`], refine it, then [`StreamKey::stream`].
#[derive(Clone)]
pub struct StreamKey(blake3::Hasher);

impl StreamKey {
    /// A key for `purpose` (a short constant such as `"rollout"`) under the user's `seed`.
    pub fn new(purpose: &str, seed: u64) -> Self {
        Self(blake3::Hasher::new_derive_key(
            "dcsft 2026 random stream v1",
        ))
        .text(purpose)
        .number(seed)
    }

    /// Adds a text coordinate, framed by its length.
    pub fn text(mut self, value: &str) -> Self {
        self.0
            .update(b"t")
            .update(&(value.len() as u64).to_le_bytes());
        self.0.update(value.as_bytes());
        self
    }

    /// Adds a number coordinate: an index, an epoch, a position.
    pub fn number(mut self, value: u64) -> Self {
        self.0.update(b"n").update(&value.to_le_bytes());
        self
    }

    /// The stream itself.
    pub fn stream(&self) -> Stream {
        Stream::of_seed(self.seed())
    }

    /// What the stream is keyed with.
    pub(crate) fn seed(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    /// One uniform number in `[0, 1)`, straight from the key: cheaper than a stream where one draw is enough.
    pub fn uniform(&self) -> f64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0.finalize().as_bytes()[..8]);
        unit(u64::from_le_bytes(word))
    }
}

/// Numbers that a thread draws in one go.
const CHUNK: usize = 1 << 16;

/// 32-bit words of a stream that a normal number takes: two draws of 64 bits.
const WORDS_OF_A_NORMAL: u128 = 4;

/// A sequence of random numbers.
#[derive(Clone)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of a [key's](StreamKey::seed) seed.
    pub(crate) fn of_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        unit(self.bits())
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in `0..n`, without bias (Lemire's rejection method).
    ///
    /// # Panics
    /// If `n` is zero.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "an empty range has no random element");
        loop {
            let wide = u128::from(self.bits()) * u128::from(n);
            if (wide as u64) >= n.wrapping_neg() % n {
                return (wide >> 64) as u64;
            }
        }
    }

    /// A standard normal number (Box-Muller; one of the pair is used, so that draws stay countable).
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// `count` normal numbers of standard deviation `std` from the start of the stream: those that [`Stream::normal`]
    /// gives one after the other, drawn on all threads.
    pub fn normals(self, count: usize, std: f64) -> Vec<f32> {
        let mut all = vec![0.0; count];
        all.par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(index, part)| {
                let mut stream = self.clone();
                stream
                    .0
                    .set_word_pos((index * CHUNK) as u128 * WORDS_OF_A_NORMAL);
                part.fill_with(|| (stream.normal() * std) as f32);
            });
        all
    }

    /// Fisher-Yates shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::StreamKey;

    #[test]
    fn many_normals_are_those_of_one_thread() {
        let key = StreamKey::new("test", 3);
        for count in [0, 1, 1000, super::CHUNK, 2 * super::CHUNK + 17] {
            let mut stream = key.stream();
            let one: Vec<f32> = (0..count)
                .map(|_| (stream.normal() * 0.02) as f32)
                .collect();
            assert_eq!(key.stream().normals(count, 0.02), one, "{count}");
        }
    }

    #[test]
    fn the_same_key_gives_the_same_numbers_and_another_key_gives_others() {
        let draw = |key: StreamKey| {
            let mut stream = key.stream();
            [stream.bits(), stream.bits()]
        };
        let key = StreamKey::new("test", 1).text("a");
        assert_eq!(draw(key.clone()), draw(key.clone()));
        assert_ne!(draw(key.clone()), draw(key.clone().number(0)));
        assert_ne!(
            draw(StreamKey::new("ab", 1)),
            draw(StreamKey::new("a", 1).text("b"))
        );
    }

    #[test]
    fn uniform_and_normal_have_the_moments_of_their_distributions() {
        let mut stream = StreamKey::new("moments", 7).stream();
        let n = 40_000;
        let uniform: f64 = (0..n).map(|_| stream.uniform()).sum::<f64>() / f64::from(n);
        let square: f64 = (0..n).map(|_| stream.normal().powi(2)).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 0.01, "{uniform}");
        assert!((square - 1.0).abs() < 0.03, "{square}");
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..100).collect();
        StreamKey::new("shuffle", 3).stream().shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}

//! The gaps between dropped inputs as a table, so that whoever can compare whole numbers draws the same ones.

use super::gaps::{gap, log_keep};

/// A table of more gaps than that is not made: where so few inputs are dropped, the processor draws them in no time.
const MOST: u64 = 1 << 13;

/// Random bits that a draw takes.
const BITS: u32 = 53;

/// For each gap from 1 on, the smallest draw, in multiples of 2^-53, that gives as much. None where the table would be too
/// long.
pub(super) fn thresholds(probability: f64) -> Option<Vec<u64>> {
    let log_keep = log_keep(probability);
    let unit = 1.0 / (1u64 << BITS) as f64;
    let of = |draw: u64| gap(draw as f64 * unit, log_keep);
    let end = 1u64 << BITS;
    let most = of(end - 1);
    if most > MOST {
        return None;
    }
    let mut from = 0;
    let thresholds = (1..=most).map(|wanted| {
        // Gaps only grow with the draw.
        let (mut low, mut high) = (from, end - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match of(middle) >= wanted {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        from = low;
        low
    });
    Some(thresholds.collect())
}

#[cfg(test)]
mod tests {
    use super::{BITS, gap, log_keep, thresholds};
    use crate::rng::StreamKey;

    #[test]
    fn the_table_gives_the_gaps_of_their_definition() {
        for probability in [0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 0.999] {
            let table = thresholds(probability).expect("a table");
            let mut stream = StreamKey::new("gaps", 0).stream();
            let random = (0..10_000).map(|_| stream.bits() >> (64 - BITS));
            let near = table.iter().flat_map(|&at| at.saturating_sub(9)..at + 9);
            let ends = [0, 1, (1 << BITS) - 1];
            for draw in random
                .chain(near)
                .chain(ends)
                .filter(|draw| draw >> BITS == 0)
            {
                let uniform = draw as f64 * (1.0 / (1u64 << BITS) as f64);
                let by_table = table.partition_point(|&at| at <= draw) as u64;
                assert_eq!(
                    by_table,
                    gap(uniform, log_keep(probability)),
                    "{probability}: {draw}"
                );
            }
        }
        assert_eq!(thresholds(1e-4), None);
    }
}

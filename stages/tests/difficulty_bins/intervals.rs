//! Intervals of pass rates.

use std::collections::BTreeMap;

use dcsft_stages::difficulty::Interval;
use proptest::prelude::*;

#[test]
fn intervals_mean_what_they_say() {
    let members = |text: &str| {
        (0..=8)
            .filter(|c| Interval::parse(text).unwrap().contains(*c, 8))
            .collect::<Vec<u64>>()
    };
    let cases: BTreeMap<&str, Vec<u64>> = BTreeMap::from([
        ("1", vec![8]),
        ("0", vec![0]),
        ("1.0", vec![8]),
        ("3/8", vec![3]),
        ("0.375", vec![3]),
        ("0.3", vec![]),
        (".5", vec![4]),
        ("(0, 1)", (1..8).collect()),
        ("[0,1]", (0..=8).collect()),
        ("[0.25, 0.75)", vec![2, 3, 4, 5]),
        ("(1/3, 2/3]", vec![3, 4, 5]),
        ("c = n", vec![8]),
        ("c == 3", vec![3]),
        ("0 < c < n", (1..8).collect()),
        ("0<c<=n", (1..=8).collect()),
        ("c >= n - 1", vec![7, 8]),
        ("c <= 2", vec![0, 1, 2]),
        ("6 <= c", vec![6, 7, 8]),
        ("2 > c", vec![0, 1]),
    ]);
    for (text, expected) in cases {
        assert_eq!(members(text), expected, "{text}");
    }
    for text in [
        "",
        "easy",
        "(0 1)",
        "[0, 1",
        "1.5",
        "-0.5",
        "c ! n",
        "c < m",
        "0 < c > 1",
        "1e-1",
        "[1, 0]",
        "(0.5, 0.3)",
        "3 < c < 2",
        "n - 1 < c < n - 2",
        "2/1",
        "1/0",
        "n",
        ".",
    ] {
        assert!(Interval::parse(text).is_err(), "{text}");
    }
}

proptest! {
    /// A bound at a/b splits counts as the integers say, for bounds that floats cannot hold.
    #[test]
    fn bounds_split_counts_exactly(a in 0_u64..=60, b in 1_u64..=60, n in 1_u64..=64) {
        prop_assume!(a <= b);
        let below = Interval::parse(&format!("[0, {a}/{b})")).unwrap();
        let from = Interval::parse(&format!("[{a}/{b}, 1]")).unwrap();
        let at = Interval::parse(&format!("{a}/{b}")).unwrap();
        for c in 0..=n {
            prop_assert_eq!(below.contains(c, n), c * b < a * n);
            prop_assert_eq!(from.contains(c, n), c * b >= a * n);
            prop_assert_eq!(at.contains(c, n), c * b == a * n);
        }
    }

    /// A decimal means the decimal number, not the float next to it.
    #[test]
    fn decimals_are_decimal(thousandths in 0_u64..=1000, n in 1_u64..=1000) {
        let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
        let interval = Interval::parse(&format!("[0, {text}]")).unwrap();
        for c in [0, n / 3, n / 2, n] {
            prop_assert_eq!(interval.contains(c, n), c * 1000 <= thousandths * n);
        }
    }
}

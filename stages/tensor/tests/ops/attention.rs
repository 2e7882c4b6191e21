//! Attention over packed rows.

use burn::tensor::Tensor;
use dcsft_tensor::ops::device::attention::{Budget, within};
use dcsft_tensor::ops::{self, Heads, Span, Spans, composed};
use dcsft_tensor::rng::StreamKey;

use super::compare::{assert_close, compare, random, run};

/// Sequences of different lengths, some queries left out, and two that share a prefix.
pub(super) fn ragged() -> Spans {
    let span =
        |prefix: std::ops::Range<usize>, own: std::ops::Range<usize>, queries, causal| Span {
            prefix,
            own,
            queries,
            causal,
        };
    Spans::new(vec![
        span(0..0, 0..7, 0..7, true),
        span(0..0, 7..12, 10..12, true),
        span(0..0, 12..17, 12..17, false),
        span(12..17, 17..20, 18..20, true),
        span(12..17, 20..21, 20..21, true),
    ])
}

#[test]
fn attention_has_the_values_and_gradients_of_its_definition() {
    let full = Spans::full(3, 7);
    for spans in [full, ragged()] {
        let inputs = [random("qkv", [21, 3 * 20])];
        compare(
            &inputs,
            |i| ops::attention(i[0].clone(), &spans, Heads::all(4)),
            |i| composed::attention(i[0].clone(), &spans, Heads::all(4)),
        );
    }
}

/// Spans of many sizes: alone, with a prefix that others share or have for themselves, with all of their rows asked for,
/// some or none.
pub(super) fn many() -> (Spans, usize) {
    let mut stream = StreamKey::new("ops test", 0).text("spans").stream();
    let mut below = |most: usize| stream.below(most as u64) as usize;
    let (mut spans, mut rows) = (Vec::new(), 0);
    for family in 0..6 {
        let prefix = rows..rows + [1, 9, 4, 40, 3, 17][family];
        rows = prefix.end;
        spans.push(Span {
            prefix: 0..0,
            own: prefix.clone(),
            queries: match family {
                0 => prefix.clone(),
                4 => prefix.end..prefix.end,
                _ => prefix.start + below(prefix.len() - 1)..prefix.end - usize::from(family == 2),
            },
            causal: family % 3 > 0,
        });
        for _ in 0..family {
            let own = rows..rows + 1 + below(8);
            rows = own.end;
            spans.push(Span {
                prefix: prefix.clone(),
                own: own.clone(),
                queries: own.start + below(own.len())..own.end,
                causal: below(2) == 0,
            });
        }
    }
    (Spans::new(spans), rows)
}

/// Spans that have rows in common, each of which gets gradients from all of them.
pub(super) fn overlapping() -> Spans {
    let span = |own: std::ops::Range<usize>, queries, causal| Span {
        prefix: 0..0,
        own,
        queries,
        causal,
    };
    Spans::new(vec![
        span(0..9, 0..5, false),
        span(3..14, 5..9, false),
        span(3..14, 9..14, true),
        span(13..21, 15..21, true),
    ])
}

#[test]
fn attention_in_blocks_of_any_size_is_the_same() {
    let (many, rows) = many();
    let heads = Heads {
        queries: 4,
        keys: 2,
    };
    let budgets = [(1, 0), (50, 0), (300, 20), (2_000, 1_000)];
    let budgets = budgets.map(|(scores, padding)| Budget { scores, padding });
    let sets = [
        (Spans::full(3, 7), 21),
        (ragged(), 21),
        (overlapping(), 21),
        (many, rows),
    ];
    for (spans, rows) in sets {
        let inputs = [random("qkv", [rows, 8 * 6])];
        for budget in budgets.into_iter().chain([Budget::DEFAULT]) {
            compare(
                &inputs,
                |i| within(budget, i[0].clone(), &spans, heads),
                |i| composed::attention(i[0].clone(), &spans, heads),
            );
        }
    }
}

#[test]
fn a_shared_prefix_gives_what_whole_sequences_give() {
    let rows = |from: std::ops::Range<u32>| from.collect::<Vec<u32>>();
    let whole: Vec<u32> = [rows(0..6), rows(0..4), rows(6..7)].concat();
    let span = |own: std::ops::Range<usize>, queries| Span {
        prefix: 0..0,
        own,
        queries,
        causal: true,
    };
    let apart = Spans::new(vec![span(0..6, 4..6), span(6..11, 10..11)]);
    let shared = Spans::new(vec![
        Span {
            prefix: 0..4,
            own: 4..6,
            queries: 4..6,
            causal: true,
        },
        Span {
            prefix: 0..4,
            own: 6..7,
            queries: 6..7,
            causal: true,
        },
    ]);
    let inputs = [random("qkv", [7, 3 * 12])];
    let left = run(&inputs, |i| {
        ops::attention(i[0].clone(), &shared, Heads::all(2))
    });
    let right = run(&inputs, |i| {
        ops::attention(ops::take_rows(i[0].clone(), &whole), &apart, Heads::all(2))
    });
    assert_close(&left, &right, 1e-5);
}

#[test]
fn grouped_heads_are_shared_heads() {
    let spans = Spans::new(vec![
        Span {
            prefix: 0..0,
            own: 0..5,
            queries: 3..5,
            causal: true,
        },
        Span {
            prefix: 0..5,
            own: 5..9,
            queries: 5..9,
            causal: true,
        },
    ]);
    let heads = Heads {
        queries: 4,
        keys: 2,
    };
    let inputs = [random("qkv", [9, 8 * 6])];
    compare(
        &inputs,
        |i| ops::attention(i[0].clone(), &spans, heads),
        |i| composed::attention(i[0].clone(), &spans, heads),
    );
    // The same with each head of keys and values written out once for each of its query heads.
    let columns = |head: usize| head * 6..(head + 1) * 6;
    let spread = |x: &Tensor<2>| {
        let parts =
            [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7].map(|head| x.clone().slice([0..9, columns(head)]));
        Tensor::cat(parts.to_vec(), 1)
    };
    compare(
        &inputs,
        |i| ops::attention(i[0].clone(), &spans, heads),
        |i| ops::attention(spread(&i[0]), &spans, Heads::all(4)),
    );
}

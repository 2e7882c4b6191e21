//! Which rows of a packed batch attend to which.

use std::ops::Range;

/// One sequence, or a part of one, within the rows of a packed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows that come before and that every row here attends to: a prefix that several spans share. May be
    /// empty.
    pub prefix: Range<usize>,
    /// The span's own rows.
    pub own: Range<usize>,
    /// Which of its own rows are asked for; the others serve as keys and values only.
    pub queries: Range<usize>,
    /// A row attends to its own rows up to itself; otherwise to all of them.
    pub causal: bool,
}

/// The spans of a batch; the rows that they ask for are given out one span after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans(Vec<Span>);

impl Spans {
    /// Takes the spans over.
    ///
    /// # Panics
    /// If a span asks for rows that are not its own.
    pub fn new(spans: Vec<Span>) -> Self {
        for span in &spans {
            assert!(
                span.own.start <= span.queries.start && span.queries.end <= span.own.end,
                "a span asks for rows {:?} outside its own {:?}",
                span.queries,
                span.own
            );
        }
        Self(spans)
    }

    /// `count` sequences of `length` rows each, every row attending to its whole sequence.
    pub fn full(count: usize, length: usize) -> Self {
        let rows = |index| index * length..(index + 1) * length;
        let span = |index| Span {
            prefix: 0..0,
            own: rows(index),
            queries: rows(index),
            causal: false,
        };
        Self((0..count).map(span).collect())
    }

    /// The spans.
    pub fn iter(&self) -> std::slice::Iter<'_, Span> {
        self.0.iter()
    }

    /// How many rows are asked for.
    pub fn outputs(&self) -> usize {
        self.0.iter().map(|span| span.queries.len()).sum()
    }

    /// The indices of the rows that are asked for, in the order in which they are given out.
    pub fn query_rows(&self) -> Vec<u32> {
        self.0
            .iter()
            .flat_map(|span| span.queries.clone())
            .map(|row| row as u32)
            .collect()
    }
}

impl Span {
    /// How many rows can be attended to: the prefix and its own.
    pub fn keys(&self) -> usize {
        self.prefix.len() + self.own.len()
    }

    /// How many rows the query `row` attends to: the whole prefix, then its own rows from the first on.
    pub fn visible(&self, row: usize) -> usize {
        let own = if self.causal {
            row + 1 - self.own.start
        } else {
            self.own.len()
        };
        self.prefix.len() + own
    }
}

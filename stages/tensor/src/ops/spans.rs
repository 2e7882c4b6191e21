//! Which rows of a packed batch attend to which.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

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

/// One of the sequences that continue a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// Which prefix.
    pub prefix: usize,
    /// Which sequence, among those of all prefixes.
    pub sequence: usize,
}

/// The spans of a batch; the rows that they ask for are given out one span after the other.
#[derive(Clone, Debug)]
pub struct Spans {
    list: Vec<Span>,
    /// What follows from them on a device.
    laid: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl PartialEq for Spans {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Spans {}

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
        Self {
            list: spans,
            laid: OnceLock::new(),
        }
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
        Self::new((0..count).map(span).collect())
    }

    /// The spans.
    pub fn iter(&self) -> std::slice::Iter<'_, Span> {
        self.list.iter()
    }

    /// What follows from the spans alone, worked out once; `fits` says whether it is the right one for this use, and
    /// where it is not another is made.
    pub(super) fn laid<T: Any + Send + Sync>(
        &self,
        fits: impl FnOnce(&T) -> bool,
        make: impl Fn() -> T,
    ) -> Arc<T> {
        let laid = self.laid.get_or_init(|| Arc::new(make())).clone();
        match laid.downcast::<T>() {
            Ok(laid) if fits(&laid) => laid,
            _ => Arc::new(make()),
        }
    }

    /// How many rows are asked for.
    pub fn outputs(&self) -> usize {
        self.list.iter().map(|span| span.queries.len()).sum()
    }

    /// The indices of the rows that are asked for, in the order in which they are given out.
    pub fn query_rows(&self) -> Vec<u32> {
        self.list
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

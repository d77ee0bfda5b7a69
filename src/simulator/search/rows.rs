//! The rows that a search looks at, wherever they are kept, and an arbitrary order to look at them in.

use crate::simulator::population::{Population, Record};
use crate::simulator::random::Random;
use crate::simulator::span::Span;
use crate::simulator::store::Row;
use crate::simulator::traceql::evaluate::TraceFacts;

/// A row that a search looks at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Candidate<'store> {
    Settled(&'store Population, &'store Record),
    Row(&'store Row),
}

impl<'store> Candidate<'store> {
    pub(super) fn facts(&self) -> TraceFacts<'store> {
        let (trace_id, start_ns, end_ns, (root_service, root_name)) = match *self {
            Self::Settled(population, record) => (
                &record.trace_id,
                record.start_ns,
                record.end_ns,
                population.root_of(record),
            ),
            Self::Row(row) => (&row.fragment.trace_id, row.start_ns, row.end_ns, row.root()),
        };
        TraceFacts {
            trace_id,
            start_ns,
            end_ns,
            root_service: root_service.map(AsRef::as_ref),
            root_name: root_name.map(AsRef::as_ref),
        }
    }

    pub(super) fn spans(&self) -> std::borrow::Cow<'store, [Span]> {
        match *self {
            Self::Settled(population, record) => population.spans_of(record),
            Self::Row(row) => std::borrow::Cow::Borrowed(&row.fragment.spans),
        }
    }
}

/// Items in an order that differs from call to call, without moving them: which ones a cut answer keeps is arbitrary.
pub(super) struct Shuffled<T> {
    items: Vec<T>,
    first: usize,
    stride: usize,
}

impl<T> Shuffled<T> {
    pub(super) fn new(items: Vec<T>, random: &mut Random) -> Self {
        let length = items.len();
        let first = random.index(length);
        // A stride without a common factor visits every item once.
        let mut stride = 1 + random.index(length.saturating_sub(1));
        while greatest_common_divisor(stride, length) > 1 {
            stride += 1;
        }
        Self {
            items,
            first,
            stride,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let length = self.items.len();
        (0..length).map(move |step| &self.items[(self.first + step * self.stride) % length])
    }
}

fn greatest_common_divisor(left: usize, right: usize) -> usize {
    if right == 0 {
        left
    } else {
        greatest_common_divisor(right, left % right)
    }
}

//! What a baseline says, and adding it up from cells.

use super::{
    changes::{Cell, widest},
    sketch::{Counts, Sketch},
};

/// What a baseline says. Durations are microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// How many traces or spans.
    pub samples: i64,
    /// Of these, those of which it is known whether they have an error.
    pub judged: i64,
    /// Of these, those that have one.
    pub errors: i64,
    /// Half are no longer.
    pub p50_us: i64,
    /// 95 % are no longer.
    pub p95_us: i64,
    /// 99 % are no longer.
    pub p99_us: i64,
    /// Half are no farther from the median.
    pub mad_us: i64,
    /// The earliest start, Unix nanoseconds.
    pub first_ns: i64,
    /// The latest start, Unix nanoseconds.
    pub last_ns: i64,
}

impl Figures {
    /// The share that has an error, 0 to 1; `None`: unknown.
    pub fn error_rate(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.errors as f64 / self.judged as f64)
    }
}

/// A sum of cells.
#[derive(Debug, Default)]
pub struct Total {
    sketch: Sketch,
    samples: i64,
    judged: i64,
    errors: i64,
    bounds: Option<(i64, i64)>,
}

impl Total {
    /// Adds a cell.
    pub fn add(&mut self, cell: &Cell) {
        self.sketch.add(&cell.durations);
        self.samples += cell.samples;
        self.judged += cell.judged;
        self.errors += cell.errors;
        self.bounds = widest(self.bounds, cell.bounds);
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.sketch.clear();
        (self.samples, self.judged, self.errors, self.bounds) = (0, 0, 0, None);
    }

    /// What it says, and how many of each duration; `None` if there is nothing in it.
    pub fn figures(&self) -> Option<(Figures, Counts)> {
        let (first_ns, last_ns) = self.bounds.filter(|_| self.samples > 0)?;
        let us = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let figures = Figures {
            samples: self.samples,
            judged: self.judged,
            errors: self.errors,
            p50_us: us(self.sketch.quantile(0.5)),
            p95_us: us(self.sketch.quantile(0.95)),
            p99_us: us(self.sketch.quantile(0.99)),
            mad_us: us(self.sketch.mad()),
            first_ns,
            last_ns,
        };
        Some((figures, self.sketch.counts()))
    }
}

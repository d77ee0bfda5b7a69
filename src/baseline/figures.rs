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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A cell of samples: start, duration, and whether it failed if that is known.
    fn cell(samples: &[(i64, u64, Option<bool>)]) -> Cell {
        let buckets = Sketch::default();
        let mut cell = Cell::default();
        for &(start_ns, us, failed) in samples {
            cell.samples += 1;
            cell.judged += i64::from(failed.is_some());
            cell.errors += i64::from(failed == Some(true));
            cell.bounds = widest(cell.bounds, Some((start_ns, start_ns)));
            cell.durations.add(buckets.bucket(us), 1);
        }
        cell
    }

    fn samples() -> impl Strategy<Value = Vec<(i64, u64, Option<bool>)>> {
        prop::collection::vec((-500i64..500, 1u64..100, any::<Option<bool>>()), 0..30)
    }

    #[test]
    fn where_everything_was_taken_away_there_is_nothing() {
        let mut total = Total::default();
        total.add(&Cell {
            bounds: Some((1, 2)),
            ..Cell::default()
        });
        assert_eq!(total.figures(), None);
        // And where nothing is known of errors, no rate is.
        total.add(&cell(&[(1, 5, None)]));
        assert_eq!(total.figures().unwrap().0.error_rate(), None);
    }

    proptest! {
        #[test]
        fn figures_are_those_of_all_samples_however_they_lie_in_cells(a in samples(), b in samples(), before in samples()) {
            let mut total = Total::default();
            total.add(&cell(&before));
            total.clear();
            total.add(&cell(&a));
            total.add(&cell(&b));
            let all = [a, b].concat();
            let Some((figures, counts)) = total.figures() else {
                prop_assert!(all.is_empty());
                return Ok(());
            };
            let known: Vec<bool> = all.iter().filter_map(|sample| sample.2).collect();
            let failed = known.iter().filter(|failed| **failed).count();
            prop_assert_eq!(figures.samples, all.len() as i64);
            prop_assert_eq!((figures.judged, figures.errors), (known.len() as i64, failed as i64));
            let rate = (!known.is_empty()).then(|| failed as f64 / known.len() as f64);
            prop_assert_eq!(figures.error_rate(), rate);
            prop_assert_eq!(Some(figures.first_ns), all.iter().map(|sample| sample.0).min());
            prop_assert_eq!(Some(figures.last_ns), all.iter().map(|sample| sample.0).max());
            prop_assert_eq!(counts, cell(&all).durations);
            // Durations this short have buckets of their own.
            let mut us: Vec<u64> = all.iter().map(|sample| sample.1).collect();
            us.sort_unstable();
            let rank = |share: f64| us[((share * us.len() as f64).ceil() as usize).max(1) - 1] as i64;
            prop_assert_eq!([figures.p50_us, figures.p95_us, figures.p99_us], [rank(0.5), rank(0.95), rank(0.99)]);
        }
    }
}

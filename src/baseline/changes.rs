//! What storing changed: samples to add to cells, and to take away from them. Added up in memory, written down in the
//! transaction that stores, and applied by a later pass; the order does not matter.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;

use super::{
    Subject,
    sketch::{Counts, Durations, Sketch},
    slot::quarter_of,
};

/// An operation whose usual duration is learned.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operation {
    /// Whole traces or single spans.
    pub subject: Subject,
    /// Service, of the root or of the spans.
    pub service: Arc<str>,
    /// Name, of the root or of the spans.
    pub name: Arc<str>,
}

/// A cell: an operation in a quarter of an hour.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The operation.
    pub operation: Operation,
    /// The quarter of an hour, counted since 1970.
    pub quarter: i64,
}

/// A trace or span, as far as baselines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Whole trace or single span.
    pub subject: Subject,
    /// Service; `None`: unknown, and then it counts nowhere.
    pub service: Option<Arc<str>>,
    /// Operation; `None`: unknown, and then it counts nowhere.
    pub operation: Option<Arc<str>>,
    /// Start, Unix nanoseconds.
    pub start_ns: i64,
    /// Duration, nanoseconds.
    pub duration_ns: i64,
    /// Whether it has an error; `None`: unknown.
    pub failed: Option<bool>,
}

/// What a cell holds, or what is to be added to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// Samples; less than none where more were taken away than added.
    pub samples: i64,
    /// Of these, those of which it is known whether they have an error.
    pub judged: i64,
    /// Of these, those that have one.
    pub errors: i64,
    /// The earliest and the latest start of those added, Unix nanoseconds.
    pub bounds: Option<(i64, i64)>,
    /// Starts of those taken away: where one of them was the earliest or the latest, that has to be found anew.
    pub gone: Vec<i64>,
    /// How many of each duration.
    pub durations: Counts,
}

/// The earliest and the latest of two pairs.
pub fn widest(a: Option<(i64, i64)>, b: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}

impl Cell {
    /// Adds what another one holds.
    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.judged += other.judged;
        self.errors += other.errors;
        self.bounds = widest(self.bounds, other.bounds);
        self.gone.extend_from_slice(&other.gone);
        self.durations.merge(&other.durations);
    }

    /// Whether it can be what a cell holds: nothing that was not there was taken away.
    pub fn is_sound(&self) -> bool {
        self.samples >= 0
            && (0..=self.samples).contains(&self.judged)
            && (0..=self.judged).contains(&self.errors)
            && self.durations.is_sound()
            && self.durations.total() == self.samples
    }

    /// Whether the earliest or the latest start may have been taken away.
    pub fn has_lost_its_bounds(&self) -> bool {
        self.bounds.is_some_and(|(first, last)| {
            self.gone
                .iter()
                .any(|start| *start <= first || *start >= last)
        })
    }

    fn count(&mut self, sample: &Sample, bucket: u64, times: i64) {
        self.samples += times;
        if let Some(failed) = sample.failed {
            self.judged += times;
            self.errors += times * i64::from(failed);
        }
        self.durations.add(bucket, times);
    }
}

/// Changes to the cells of a dataset.
#[derive(Debug, Default)]
pub struct Changes {
    cells: HashMap<Key, Cell>,
    buckets: Sketch,
}

impl Changes {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The changes, by cell.
    pub fn into_cells(self) -> HashMap<Key, Cell> {
        self.cells
    }

    /// Counts a sample that was not there.
    pub fn add(&mut self, sample: &Sample) {
        let bucket = self.bucket(sample);
        if let Some(cell) = self.cell(sample) {
            cell.count(sample, bucket, 1);
            cell.bounds = widest(cell.bounds, Some((sample.start_ns, sample.start_ns)));
        }
    }

    /// Takes a sample back that was counted.
    pub fn remove(&mut self, sample: &Sample) {
        let bucket = self.bucket(sample);
        if let Some(cell) = self.cell(sample) {
            cell.count(sample, bucket, -1);
            cell.gone.push(sample.start_ns);
        }
    }

    /// Counts a sample as it is now instead of as it was.
    pub fn replace(&mut self, was: &Sample, is: &Sample) {
        let same_place = was.start_ns == is.start_ns
            && (was.subject, &was.service, &was.operation)
                == (is.subject, &is.service, &is.operation);
        if !same_place {
            self.remove(was);
            self.add(is);
            return;
        }
        let (bucket_was, bucket_is) = (self.bucket(was), self.bucket(is));
        if let Some(cell) = self.cell(is) {
            cell.count(was, bucket_was, -1);
            cell.count(is, bucket_is, 1);
        }
    }

    fn bucket(&self, sample: &Sample) -> u64 {
        self.buckets
            .bucket(u64::try_from(sample.duration_ns / 1_000).unwrap_or(0))
    }

    fn cell(&mut self, sample: &Sample) -> Option<&mut Cell> {
        let operation = Operation {
            subject: sample.subject,
            service: storable(sample.service.as_ref()?),
            name: storable(sample.operation.as_ref()?),
        };
        let quarter = quarter_of(sample.start_ns);
        Some(self.cells.entry(Key { operation, quarter }).or_default())
    }

    /// Adds what was written down.
    ///
    /// # Errors
    /// If that is not what these bytes are.
    pub fn absorb(&mut self, bytes: &[u8]) -> Result<(), prost::DecodeError> {
        for cell in Message::decode(bytes)?.cells {
            let operation = Operation {
                subject: if cell.of_spans {
                    Subject::Span
                } else {
                    Subject::Trace
                },
                service: storable(&cell.service.into()),
                name: storable(&cell.operation.into()),
            };
            let change = Cell {
                samples: cell.samples,
                judged: cell.judged,
                errors: cell.errors,
                bounds: cell.first_ns.zip(cell.last_ns),
                gone: cell.gone,
                durations: Counts::of_message(&cell.durations.unwrap_or_default()),
            };
            let quarter = cell.quarter;
            self.cells
                .entry(Key { operation, quarter })
                .or_default()
                .merge(&change);
        }
        Ok(())
    }

    /// To be written down.
    pub fn encode(&self) -> Vec<u8> {
        let cells = self.cells.iter().map(|(key, cell)| CellMessage {
            of_spans: key.operation.subject == Subject::Span,
            service: key.operation.service.to_string(),
            operation: key.operation.name.to_string(),
            quarter: key.quarter,
            samples: cell.samples,
            judged: cell.judged,
            errors: cell.errors,
            first_ns: cell.bounds.map(|bounds| bounds.0),
            last_ns: cell.bounds.map(|bounds| bounds.1),
            gone: cell.gone.clone(),
            durations: Some(cell.durations.to_message()),
        });
        let cells = cells.collect();
        Message { cells }.encode_to_vec()
    }
}

/// The longest name that cells are kept by, bytes: both names of an operation have to fit into PostgreSQL's index.
const LONGEST_NAME: usize = 1_000;

/// A name as cells are kept by it. PostgreSQL's text has no NUL: it is stored as U+FFFD. Longer ones than an index takes are cut off,
/// and count together from there on.
fn storable(text: &Arc<str>) -> Arc<str> {
    let fits = text.len() <= LONGEST_NAME;
    if fits && !text.contains('\0') {
        return Arc::clone(text);
    }
    let replaced = text.replace('\0', "\u{fffd}");
    match replaced.len() <= LONGEST_NAME {
        true => replaced.into(),
        false => {
            let end = replaced.floor_char_boundary(LONGEST_NAME - '…'.len_utf8());
            format!("{}…", &replaced[..end]).into()
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(message, repeated, tag = "1")]
    cells: Vec<CellMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CellMessage {
    #[prost(bool, tag = "1")]
    of_spans: bool,
    #[prost(string, tag = "2")]
    service: String,
    #[prost(string, tag = "3")]
    operation: String,
    #[prost(sint64, tag = "4")]
    quarter: i64,
    #[prost(sint64, tag = "5")]
    samples: i64,
    #[prost(sint64, tag = "6")]
    judged: i64,
    #[prost(sint64, tag = "7")]
    errors: i64,
    #[prost(sint64, optional, tag = "8")]
    first_ns: Option<i64>,
    #[prost(sint64, optional, tag = "9")]
    last_ns: Option<i64>,
    #[prost(sint64, repeated, tag = "10")]
    gone: Vec<i64>,
    #[prost(message, optional, tag = "11")]
    durations: Option<Durations>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> impl Strategy<Value = Sample> {
        let name = || prop::option::weighted(0.8, prop::sample::select(vec!["a", "b", "c\0"]));
        (
            name(),
            name(),
            0i64..4 * 900,
            0i64..10_000_000_000,
            prop::option::of(any::<bool>()),
        )
            .prop_map(
                |(service, operation, start_s, duration_ns, failed)| Sample {
                    subject: Subject::Trace,
                    service: service.map(Arc::from),
                    operation: operation.map(Arc::from),
                    start_ns: start_s * 1_000_000_000,
                    duration_ns,
                    failed,
                },
            )
    }

    #[test]
    fn a_name_is_kept_as_it_is_or_what_fits_of_it_is() {
        for (name, kept) in [
            ("GET /cart".to_owned(), "GET /cart".to_owned()),
            ("x".repeat(1_000), "x".repeat(1_000)),
            ("x".repeat(1_001), "x".repeat(997) + "…"),
            // Nothing is cut in two: 997 bytes end within the 499th of these.
            ("é".repeat(501), "é".repeat(498) + "…"),
            ("a\0b".to_owned(), "a\u{fffd}b".to_owned()),
            // The sign that stands for a NUL takes three bytes.
            ("\0".repeat(333) + "x", "\u{fffd}".repeat(333) + "x"),
            ("\0".repeat(334), "\u{fffd}".repeat(332) + "…"),
        ] {
            let stored = storable(&Arc::from(name));
            assert_eq!(*stored, *kept);
            assert!(stored.len() <= LONGEST_NAME);
        }
    }

    /// What cells hold after all of these, without those that are empty and without what only passes need.
    fn settled(changes: Changes) -> HashMap<Key, (i64, i64, i64, Counts)> {
        let cells = changes.into_cells().into_iter();
        cells
            .filter(|(_, cell)| cell.samples != 0)
            .map(|(key, cell)| {
                (
                    key,
                    (cell.samples, cell.judged, cell.errors, cell.durations),
                )
            })
            .collect()
    }

    fn only(samples: &[Sample]) -> Changes {
        let mut changes = Changes::default();
        samples.iter().for_each(|sample| changes.add(sample));
        changes
    }

    proptest! {
        /// Whatever a trace was before, and in whatever order and through how many notes it came: what counts is what it is.
        #[test]
        fn improved_samples_count_as_they_are(
            histories in prop::collection::vec(prop::collection::vec(sample(), 1..4), 1..30), notes in 1usize..5
        ) {
            let mut written: Vec<Changes> = (0..notes).map(|_| Changes::default()).collect();
            for (index, history) in histories.iter().enumerate() {
                written[index % notes].add(&history[0]);
                for (step, pair) in history.windows(2).enumerate() {
                    written[(index + step) % notes].replace(&pair[0], &pair[1]);
                }
            }
            let mut all = Changes::default();
            for changes in written.iter().rev() {
                all.absorb(&changes.encode()).unwrap();
            }
            let last: Vec<Sample> = histories.iter().filter_map(|history| history.last().cloned()).collect();
            prop_assert!(all.cells.values().all(Cell::is_sound));
            prop_assert_eq!(settled(all), settled(only(&last)));
        }

        #[test]
        fn bounds_hold_unless_it_is_said_that_they_may_not(kept in prop::collection::vec(sample(), 1..20), gone in prop::collection::vec(sample(), 0..5)) {
            let mut changes = only(&[kept.clone(), gone.clone()].concat());
            gone.iter().for_each(|sample| changes.remove(sample));
            let right = only(&kept);
            for (key, cell) in changes.cells.iter().filter(|(_, cell)| cell.samples > 0 && !cell.has_lost_its_bounds()) {
                prop_assert_eq!(cell.bounds, right.cells[key].bounds);
            }
        }
    }

    #[test]
    fn a_cell_that_lacks_what_was_taken_away_is_unsound() {
        let buckets = Sketch::default();
        let cell = |samples, judged, errors, durations: &[(u64, i64)]| {
            let mut counts = Counts::default();
            durations
                .iter()
                .for_each(|(us, times)| counts.add(buckets.bucket(*us), *times));
            Cell {
                samples,
                judged,
                errors,
                durations: counts,
                ..Cell::default()
            }
        };
        assert!(cell(0, 0, 0, &[]).is_sound());
        assert!(cell(3, 2, 1, &[(5, 3)]).is_sound());
        for (samples, judged, errors, durations) in [
            (-1, 0, 0, &[(5, -1)][..]),
            (3, 4, 0, &[(5, 3)]),
            (3, -1, 0, &[(5, 3)]),
            (3, 2, 3, &[(5, 3)]),
            (3, 2, -1, &[(5, 3)]),
            (3, 2, 1, &[(5, 4), (6, -1)]),
            (3, 2, 1, &[(5, 2)]),
        ] {
            let cell = cell(samples, judged, errors, durations);
            assert!(!cell.is_sound(), "{cell:?}");
        }
    }

    #[test]
    fn bounds_are_lost_with_the_first_or_the_last() {
        let cell = |gone: &[i64]| Cell {
            bounds: Some((10, 20)),
            gone: gone.to_vec(),
            ..Cell::default()
        };
        assert!(!cell(&[]).has_lost_its_bounds());
        assert!(!cell(&[11, 19]).has_lost_its_bounds());
        assert!(cell(&[11, 10]).has_lost_its_bounds());
        assert!(cell(&[20]).has_lost_its_bounds());
        assert_eq!(widest(Some((1, 5)), Some((-2, 3))), Some((-2, 5)));
        assert_eq!(widest(None, Some((-2, 3))), Some((-2, 3)));
        assert_eq!(widest(Some((1, 5)), None), Some((1, 5)));
        assert_eq!(widest(None, None), None);
    }

    #[test]
    fn notes_keep_what_they_were_given() {
        let sample = |subject, start_ns| Sample {
            subject,
            service: Some("a".into()),
            operation: Some("b".into()),
            start_ns,
            duration_ns: 3_000,
            failed: Some(true),
        };
        let mut changes = Changes::default();
        assert!(changes.is_empty());
        changes.add(&sample(Subject::Trace, 5));
        changes.add(&sample(Subject::Trace, 7));
        changes.add(&sample(Subject::Span, 5));
        changes.remove(&sample(Subject::Span, 9));
        assert!(!changes.is_empty());
        let mut read = Changes::default();
        read.absorb(&changes.encode()).unwrap();
        let cells = read.into_cells();
        assert_eq!(cells, changes.into_cells());
        let bounds = cells.values().map(|cell| (cell.bounds, cell.gone.clone()));
        let mut bounds: Vec<_> = bounds.collect();
        bounds.sort();
        assert_eq!(bounds, [(Some((5, 5)), vec![9]), (Some((5, 7)), vec![])]);
        // One that moved in time is somewhere else; one that stayed is where it was.
        let mut moved = Changes::default();
        moved.replace(&sample(Subject::Trace, 5), &sample(Subject::Trace, 6));
        assert_eq!(moved.cells.values().next().unwrap().gone, [5]);
        let mut longer = sample(Subject::Trace, 5);
        longer.duration_ns = 9_000_000;
        let mut stayed = Changes::default();
        stayed.replace(&sample(Subject::Trace, 5), &longer);
        let cell = stayed.cells.values().next().unwrap();
        assert_eq!((cell.samples, cell.judged, cell.errors), (0, 0, 0));
        assert!(cell.gone.is_empty() && cell.bounds.is_none());
    }

    #[test]
    fn what_has_no_root_counts_when_it_gets_one() {
        let whole = Sample {
            subject: Subject::Trace,
            service: Some("a".into()),
            operation: Some("b".into()),
            start_ns: 5,
            duration_ns: 3_000,
            failed: None,
        };
        let rootless = Sample {
            service: None,
            operation: None,
            ..whole.clone()
        };
        let mut changes = Changes::default();
        changes.add(&rootless);
        assert!(changes.is_empty());
        changes.replace(&rootless, &whole);
        assert_eq!(settled(changes), settled(only(&[whole])));
    }
}

//! Durations, counted in buckets of an HDR histogram: exact to 1/256 of their value, mergeable, and what was added can be
//! taken away again.
//!
//! Counts are kept sparse, by the lowest duration of their bucket, because most cells hold few; percentiles are read from a
//! histogram of `hdrhistogram` that they are put into.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use prost::Message as _;

/// Two digits: 128 buckets to each doubling.
const DIGITS: u8 = 2;
/// Durations beyond twelve days count as that.
const LONGEST_US: u64 = 1 << 40;

/// How far a percentile is off at most, as a share of its value: half a bucket.
pub const ERROR: f64 = 1.0 / 256.0;

/// The limits of buckets, and a place to merge counts in.
#[derive(Debug, Clone)]
pub struct Sketch(Histogram<u64>);

impl Default for Sketch {
    #[expect(
        clippy::expect_used,
        reason = "only bounds or digits out of range are refused, and these are constants"
    )]
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("valid bounds"))
    }
}

impl Sketch {
    /// The bucket of a duration in microseconds: the shortest duration in it.
    pub fn bucket(&self, us: u64) -> u64 {
        self.0.lowest_equivalent(us.min(LONGEST_US))
    }

    /// Adds counts. None of them may be negative.
    pub fn add(&mut self, counts: &Counts) {
        for (&bucket, &count) in &counts.0 {
            self.0
                .saturating_record_n(bucket, u64::try_from(count).unwrap_or(0));
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many there are.
    pub fn samples(&self) -> u64 {
        self.0.len()
    }

    /// What is in it, sparse.
    pub fn counts(&self) -> Counts {
        let recorded = self.0.iter_recorded().map(|step| {
            let bucket = self.0.lowest_equivalent(step.value_iterated_to());
            (
                bucket,
                i64::try_from(step.count_at_value()).unwrap_or(i64::MAX),
            )
        });
        Counts(recorded.collect())
    }

    /// The smallest duration that so great a share of them does not exceed (nearest rank), microseconds; 0 if there are none.
    /// Off by [`ERROR`] at most.
    pub fn quantile(&self, share: f64) -> u64 {
        self.middle(self.0.value_at_quantile(share))
    }

    /// The median of the distances from the median, microseconds; 0 if there are none. Off by [`ERROR`] of twice the median and
    /// of itself at most.
    pub fn mad(&self) -> u64 {
        let median = self.quantile(0.5);
        let mut distances: Vec<(u64, u64)> = self
            .0
            .iter_recorded()
            .map(|step| {
                let distance = self.middle(step.value_iterated_to()).abs_diff(median);
                (distance, step.count_at_value())
            })
            .collect();
        distances.sort_unstable();
        let half = self.samples().div_ceil(2);
        let mut passed = 0;
        for (distance, count) in distances {
            passed += count;
            if passed >= half {
                return distance;
            }
        }
        0
    }

    /// The share of them that does not exceed a duration in microseconds, 0 to 1; half of those in its own bucket count. `None`
    /// if there are none.
    pub fn rank(&self, us: u64) -> Option<f64> {
        if self.0.is_empty() {
            return None;
        }
        let us = us.min(LONGEST_US);
        let within = self.0.count_at(us) as f64;
        let lowest = self.0.lowest_equivalent(us);
        let below = match lowest.checked_sub(1) {
            Some(below) => self.0.count_between(0, below) as f64,
            None => 0.0,
        };
        Some((below + within / 2.0) / self.samples() as f64)
    }

    /// The middle of a duration's bucket.
    fn middle(&self, us: u64) -> u64 {
        self.0.median_equivalent(us)
    }
}

/// How many of each bucket, by its shortest duration. What is to be taken away is negative.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<u64, i64>);

/// As counts are stored: ascending, each bucket as its distance from the one before.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Durations {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) distances_us: Vec<u64>,
    #[prost(sint64, repeated, tag = "2")]
    pub(super) counts: Vec<i64>,
}

impl Counts {
    /// Adds to a bucket.
    pub fn add(&mut self, bucket: u64, count: i64) {
        let sum = self.0.entry(bucket).or_default();
        *sum = sum.saturating_add(count);
        if *sum == 0 {
            self.0.remove(&bucket);
        }
    }

    /// Adds all of these.
    pub fn merge(&mut self, other: &Self) {
        for (&bucket, &count) in &other.0 {
            self.add(bucket, count);
        }
    }

    /// Whether no bucket's count is negative.
    pub fn is_sound(&self) -> bool {
        self.0.values().all(|count| *count > 0)
    }

    /// How many in all.
    pub fn total(&self) -> i64 {
        self.0.values().sum()
    }

    pub(super) fn to_message(&self) -> Durations {
        let mut before = 0;
        let mut message = Durations::default();
        for (&bucket, &count) in &self.0 {
            message.distances_us.push(bucket - before);
            message.counts.push(count);
            before = bucket;
        }
        message
    }

    pub(super) fn of_message(message: &Durations) -> Self {
        let mut counts = Self::default();
        let mut bucket = 0u64;
        for (distance, count) in message.distances_us.iter().zip(&message.counts) {
            bucket = bucket.saturating_add(*distance);
            counts.add(bucket, *count);
        }
        counts
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        self.to_message().encode_to_vec()
    }

    /// The reverse of [`Self::encode`].
    ///
    /// # Errors
    /// If that is not what these bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        Durations::decode(bytes).map(|message| Self::of_message(&message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(durations: &[u64]) -> Counts {
        let sketch = Sketch::default();
        let mut counts = Counts::default();
        for us in durations {
            counts.add(sketch.bucket(*us), 1);
        }
        counts
    }

    fn sketch(durations: &[u64]) -> Sketch {
        let mut sketch = Sketch::default();
        sketch.add(&counts(durations));
        sketch
    }

    fn exact(sorted: &[u64], share: f64) -> u64 {
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let one = prop_oneof![
            0u64..300,
            (0u32..36, 0u64..1024)
                .prop_map(|(power, rest)| (1 << power) + (rest << power.saturating_sub(10))),
            (1u64..4_000).prop_map(|ms| ms * 1_000),
        ];
        prop::collection::vec(one, 1..400)
    }

    proptest! {
        #[test]
        fn percentiles_are_as_exact_as_is_said(mut durations in durations()) {
            let sketch = sketch(&durations);
            durations.sort_unstable();
            prop_assert_eq!(sketch.samples(), durations.len() as u64);
            for share in [0.01, 0.5, 0.95, 0.99, 1.0] {
                let (is, right) = (sketch.quantile(share) as f64, exact(&durations, share) as f64);
                prop_assert!((is - right).abs() <= right * ERROR + 0.5, "{} {} {}", share, is, right);
            }
            let median = exact(&durations, 0.5);
            let mut distances: Vec<u64> = durations.iter().map(|us| us.abs_diff(median)).collect();
            distances.sort_unstable();
            let (is, right) = (sketch.mad() as f64, exact(&distances, 0.5) as f64);
            let most = (2.0 * median as f64 + is.max(right)) * ERROR + 1.0;
            prop_assert!((is - right).abs() <= most, "{} {} {}", median, is, right);
        }

        #[test]
        fn what_is_taken_away_was_never_there(kept in durations(), gone in durations()) {
            let mut all = counts(&[kept.clone(), gone.clone()].concat());
            let sketch = Sketch::default();
            for us in &gone {
                all.add(sketch.bucket(*us), -1);
            }
            prop_assert_eq!(&all, &counts(&kept));
            prop_assert!(all.is_sound());
        }

        #[test]
        fn what_is_stored_comes_back(durations in durations(), sign in prop::sample::select(vec![-1i64, 1])) {
            let mut written = Counts::default();
            for us in &durations {
                written.add(*us, sign);
            }
            prop_assert_eq!(&Counts::decode(&written.encode()).unwrap(), &written);
        }

        #[test]
        fn sparse_and_dense_say_the_same(durations in durations()) {
            prop_assert_eq!(sketch(&durations).counts(), counts(&durations));
        }
    }

    #[test]
    fn a_cleared_sketch_is_empty_and_taking_away_what_is_not_there_is_unsound() {
        let mut sketch = sketch(&[10, 20]);
        sketch.clear();
        assert_eq!((sketch.samples(), sketch.rank(10)), (0, None));
        let mut counts = counts(&[10]);
        assert!(counts.is_sound());
        counts.add(11, -1);
        assert!(!counts.is_sound());
        assert_eq!(counts.total(), 0);
        counts.add(11, 1);
        assert!(counts.is_sound());
    }

    #[test]
    fn ranks_are_shares_of_what_is_shorter() {
        let sketch = sketch(&[10, 20, 20, 30]);
        assert_eq!(sketch.rank(5), Some(0.0));
        assert_eq!(sketch.rank(20), Some(0.5));
        assert_eq!(sketch.rank(31), Some(1.0));
        assert_eq!(Sketch::default().rank(31), None);
    }

    #[test]
    fn nothing_has_no_percentiles_and_a_year_is_no_trouble() {
        assert_eq!(Sketch::default().quantile(0.5), 0);
        assert_eq!(Sketch::default().mad(), 0);
        let long = sketch(&[u64::MAX, 365 * 86_400_000_000]);
        assert!(long.quantile(0.5) >= LONGEST_US / 2);
    }
}

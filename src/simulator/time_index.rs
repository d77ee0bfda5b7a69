//! Which traces overlap a window, without looking at all of them.
//!
//! Starts are sorted, so a scan may begin at "window start minus the longest trace" - which one trace of an hour would make useless.
//! So traces are kept in classes by duration, and each class scans only as far back as its own longest trace.

/// Upper bounds of the duration classes, in nanoseconds; the last class has none.
const CLASS_BOUNDS_NS: [u64; 2] = [10_000_000_000, 600_000_000_000];

#[derive(Debug, Default, Clone)]
struct Class {
    /// Start, end and position, by start.
    intervals: Vec<(u64, u64, u32)>,
    longest_ns: u64,
}

/// An index over intervals that are sorted by start.
#[derive(Debug)]
pub(super) struct TimeIndex {
    classes: [Class; CLASS_BOUNDS_NS.len() + 1],
    latest_end_ns: u64,
}

impl TimeIndex {
    /// Indexes `(start_ns, end_ns)` pairs, which come sorted by start.
    pub(super) fn new(intervals: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut classes: [Class; CLASS_BOUNDS_NS.len() + 1] = Default::default();
        let mut latest_end_ns = 0;
        for (position, (start_ns, end_ns)) in intervals.enumerate() {
            latest_end_ns = latest_end_ns.max(end_ns);
            let duration_ns = end_ns.saturating_sub(start_ns);
            let class = CLASS_BOUNDS_NS.partition_point(|bound_ns| *bound_ns < duration_ns);
            classes[class].longest_ns = classes[class].longest_ns.max(duration_ns);
            classes[class]
                .intervals
                .push((start_ns, end_ns, position as u32));
        }
        Self {
            classes,
            latest_end_ns,
        }
    }

    /// The latest end of all intervals, 0 without any.
    pub(super) fn latest_end_ns(&self) -> u64 {
        self.latest_end_ns
    }

    /// Positions of the intervals that share a point with `[start_ns, end_ns]`, both inclusive, in no particular order.
    pub(super) fn overlapping(&self, start_ns: u64, end_ns: u64) -> Vec<u32> {
        let mut found = Vec::new();
        for class in &self.classes {
            let earliest_ns = start_ns.saturating_sub(class.longest_ns);
            let from = class
                .intervals
                .partition_point(|interval| interval.0 < earliest_ns);
            let candidates = class.intervals[from..]
                .iter()
                .take_while(|interval| interval.0 <= end_ns);
            found.extend(
                candidates
                    .filter(|interval| interval.1 >= start_ns)
                    .map(|interval| interval.2),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::TimeIndex;

    #[test]
    fn finds_what_a_full_scan_finds() {
        let mut random = Random::new(7);
        let mut intervals: Vec<(u64, u64)> = (0..2_000)
            .map(|_| {
                let start_ns = random.below(10_000_000_000_000);
                let magnitude = random.below(42);
                (start_ns, start_ns + random.below(1 << magnitude))
            })
            .collect();
        intervals.sort_unstable();
        let index = TimeIndex::new(intervals.iter().copied());
        for _ in 0..300 {
            let start_ns = random.below(10_000_000_000_000);
            let end_ns = start_ns + random.below(100_000_000_000);
            let mut found = index.overlapping(start_ns, end_ns);
            found.sort_unstable();
            let expected: Vec<u32> = (0..intervals.len() as u32)
                .filter(|position| {
                    let (start, end) = intervals[*position as usize];
                    start <= end_ns && end >= start_ns
                })
                .collect();
            assert_eq!(found, expected);
        }
    }
}

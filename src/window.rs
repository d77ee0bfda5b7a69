//! Windows of time and sets of them: half-open `[start, end)`, whole Unix seconds, UTC.
//!
//! Everything that is planned, fetched and covered is measured in these. Pure arithmetic: no clock, no I/O. What is
//! requested and what is left to do is decided in [`crate::plan`]; how an over-full window is cut in [`crate::split`].

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

/// A stretch of time, half-open, in whole Unix seconds. Never empty: `start < end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Window {
    start: i64,
    end: i64,
}

impl Window {
    /// The window `[start, end)`, or `None` if that is empty.
    pub fn new(start: i64, end: i64) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// First second in it, Unix seconds.
    pub fn start(self) -> i64 {
        self.start
    }

    /// First second after it, Unix seconds.
    pub fn end(self) -> i64 {
        self.end
    }

    /// Its length in seconds, at least 1.
    pub fn seconds(self) -> i64 {
        self.end - self.start
    }

    /// From the start of this one to the end of a later one.
    #[must_use]
    pub fn until(self, later: Self) -> Self {
        Self {
            start: self.start.min(later.start),
            end: self.end.max(later.end),
        }
    }

    /// What the two have in common.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Whether a trace that starts and ends at these Unix nanoseconds has any part in the window: what a search for
    /// `start=…&end=…` brings, except that Tempo's `end` is inclusive.
    pub fn overlaps_ns(self, start_ns: i64, end_ns: i64) -> bool {
        end_ns.div_euclid(1_000_000_000) >= self.start
            && start_ns.div_euclid(1_000_000_000) <= self.end
    }

    /// Cut at every multiple of `step_s` seconds since the epoch, in ascending order. The pieces tile the window.
    pub fn cut_at_edges(self, step_s: i64) -> Vec<Self> {
        let step = step_s.max(1);
        let mut pieces = Vec::new();
        let mut from = self.start;
        while from < self.end {
            let edge = (from.div_euclid(step) + 1).saturating_mul(step);
            let to = edge.min(self.end);
            pieces.push(Self {
                start: from,
                end: to,
            });
            from = to;
        }
        pieces
    }

    /// Cut into `pieces` of about the same length, at least one second each, in ascending order.
    pub fn cut_into(self, pieces: i64) -> Vec<Self> {
        let pieces = pieces.clamp(1, self.seconds());
        (0..pieces)
            .filter_map(|i| {
                Self::new(
                    self.start + self.seconds() * i / pieces,
                    self.start + self.seconds() * (i + 1) / pieces,
                )
            })
            .collect()
    }
}

/// Unix seconds as RFC 3339 with a `Z`; seconds outside chrono's years are printed as a number.
pub fn rfc3339(epoch_s: i64) -> String {
    DateTime::<Utc>::from_timestamp(epoch_s, 0).map_or_else(
        || epoch_s.to_string(),
        |at| at.to_rfc3339_opts(SecondsFormat::Secs, true),
    )
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} … {}", rfc3339(self.start), rfc3339(self.end))
    }
}

/// Farther from 1970 than any second that is dealt with, and near enough to be reckoned with.
const FARTHEST_S: i64 = 1 << 61;

/// A set of seconds: disjoint windows in ascending order, none touching the next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WindowSet(Vec<Window>);

impl FromIterator<Window> for WindowSet {
    fn from_iter<I: IntoIterator<Item = Window>>(windows: I) -> Self {
        let mut windows: Vec<Window> = windows.into_iter().collect();
        windows.sort_unstable();
        let mut merged: Vec<Window> = Vec::with_capacity(windows.len());
        for window in windows {
            match merged.last_mut() {
                Some(last) if window.start <= last.end => last.end = last.end.max(window.end),
                _ => merged.push(window),
            }
        }
        Self(merged)
    }
}

impl From<Window> for WindowSet {
    fn from(window: Window) -> Self {
        Self(vec![window])
    }
}

impl WindowSet {
    /// Every second before this one.
    pub fn before(second: i64) -> Self {
        Window::new(-FARTHEST_S, second).into_iter().collect()
    }

    /// This second and every later one.
    pub fn since(second: i64) -> Self {
        Window::new(second, FARTHEST_S).into_iter().collect()
    }

    /// The windows, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Window> + '_ {
        self.0.iter().copied()
    }

    /// Whether it has no second.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many seconds it has.
    pub fn seconds(&self) -> i64 {
        self.iter().map(Window::seconds).sum()
    }

    /// The seconds of this set that are not in `other`.
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut taken = other.0.iter().peekable();
        for window in self.iter() {
            let mut from = window.start;
            while let Some(next) = taken.peek() {
                if next.end <= from {
                    taken.next();
                } else if next.start < window.end {
                    left.extend(Window::new(from, next.start));
                    from = next.end;
                    if next.end > window.end {
                        break;
                    }
                } else {
                    break;
                }
            }
            left.extend(Window::new(from, window.end));
        }
        Self(left)
    }

    /// The seconds in both.
    pub fn intersection(&self, other: &Self) -> Self {
        self.minus(&self.minus(other))
    }

    /// The seconds in either.
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn windows() -> impl Strategy<Value = Vec<Window>> {
        prop::collection::vec((0i64..200, 1i64..40), 0..12).prop_map(|pairs| {
            pairs
                .into_iter()
                .filter_map(|(s, n)| Window::new(s, s + n))
                .collect()
        })
    }

    fn seconds(windows: impl IntoIterator<Item = Window>) -> BTreeSet<i64> {
        windows
            .into_iter()
            .flat_map(|w| w.start()..w.end())
            .collect()
    }

    proptest! {
        #[test]
        fn any_second_is_before_another_or_since_it(second in -1_000_000_000_000i64..1_000_000_000_000, border in -1_000_000_000_000i64..1_000_000_000_000) {
            let one = WindowSet::from(Window::new(second, second + 1).unwrap());
            prop_assert_eq!(WindowSet::before(border).intersection(&one).is_empty(), second >= border);
            prop_assert_eq!(WindowSet::since(border).intersection(&one).is_empty(), second < border);
        }

        #[test]
        fn windows_are_the_seconds_from_their_start_to_their_end(a in -50i64..50, b in -50i64..50, c in -50i64..50, d in -50i64..50) {
            let (one, other) = (Window::new(a, b), Window::new(c, d));
            prop_assert_eq!(one.is_some(), a < b);
            if let (Some(one), Some(other)) = (one, other) {
                prop_assert_eq!((one.start(), one.end(), one.seconds()), (a, b, (a..b).count() as i64));
                let both: Vec<i64> = (a..b).filter(|second| (c..d).contains(second)).collect();
                prop_assert_eq!(one.intersection(other).map_or(Vec::new(), |part| (part.start()..part.end()).collect()), both);
                let until = one.until(other);
                prop_assert_eq!((until.start(), until.end()), (a.min(c), b.max(d)));
                prop_assert_eq!(WindowSet::from(one).seconds(), one.seconds());
            }
        }

        /// Tempo's `end` is inclusive, and it cuts nanoseconds off.
        #[test]
        fn a_trace_overlaps_a_window_that_has_one_of_its_seconds_or_ends_at_one(
            start in -20i64..20, length in 1i64..20, from_ms in -40_000i64..40_000, lasts_ms in 0i64..30_000,
        ) {
            let window = Window::new(start, start + length).unwrap();
            let (from_ns, to_ns) = (from_ms * 1_000_000, (from_ms + lasts_ms) * 1_000_000);
            let seconds = from_ms.div_euclid(1_000)..=(from_ms + lasts_ms).div_euclid(1_000);
            let overlaps = (start..=start + length).any(|second| seconds.contains(&second));
            prop_assert_eq!(window.overlaps_ns(from_ns, to_ns), overlaps);
        }

        #[test]
        fn set_operations_are_those_of_sets_of_seconds(a in windows(), b in windows()) {
            let (x, y) = (seconds(a.clone()), seconds(b.clone()));
            let (a, b): (WindowSet, WindowSet) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(seconds(a.minus(&b).iter()), x.difference(&y).copied().collect());
            prop_assert_eq!(seconds(a.intersection(&b).iter()), x.intersection(&y).copied().collect());
            prop_assert_eq!(seconds(a.union(&b).iter()), x.union(&y).copied().collect());
            prop_assert_eq!((a.is_empty(), a.seconds()), (x.is_empty(), x.len() as i64));
            for set in [a.minus(&b), a.intersection(&b), a.union(&b)] {
                prop_assert!(set.0.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }

        #[test]
        fn pieces_tile_the_window(start in -100_000i64..100_000, length in 1i64..10_000, step in 1i64..4_000, n in 1i64..50) {
            let window = Window::new(start, start + length).unwrap();
            for pieces in [window.cut_at_edges(step), window.cut_into(n)] {
                prop_assert_eq!(pieces[0].start, window.start);
                prop_assert_eq!(pieces[pieces.len() - 1].end, window.end);
                prop_assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
            }
            let pieces = window.cut_at_edges(step);
            prop_assert!(pieces[1..].iter().all(|piece| piece.start % step == 0));
            prop_assert!(pieces.iter().all(|piece| piece.start.div_euclid(step) == (piece.end - 1).div_euclid(step)));
            let pieces = window.cut_into(n);
            prop_assert_eq!(pieces.len() as i64, n.min(length));
            let (shortest, longest) = (pieces.iter().map(|piece| piece.seconds()).min(), pieces.iter().map(|piece| piece.seconds()).max());
            prop_assert!(longest.unwrap() - shortest.unwrap() <= 1);
        }
    }

    #[test]
    fn windows_are_told_in_utc() {
        let window = Window::new(0, 86_399).unwrap();
        assert_eq!(
            window.to_string(),
            "1970-01-01T00:00:00Z … 1970-01-01T23:59:59Z"
        );
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
    }
}

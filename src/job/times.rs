//! When a job collects, and which stretch of time: what `[backfill]` and `[poll]` amount to.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Schedule;

/// Collecting what lies in the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backfill {
    /// Which part of it.
    pub range: BackfillRange,
    /// Where windows are cut when nothing is known about what they hold: whole seconds, 1s to 7d.
    pub window: Duration,
    /// The longest that a window becomes where there is little in it: `window` if that was written, else a day.
    pub longest_window: Duration,
    /// How far behind now the range of `last` ends: whole seconds.
    pub settle: Duration,
    /// Which windows come first.
    pub order: Order,
    /// When to fill in what is missing; `None`: once.
    pub schedule: Option<Schedule>,
}

/// The range of a backfill, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackfillRange {
    /// So far back from now: whole seconds, at least one window.
    Last(Duration),
    /// Half-open, whole seconds, `from` before `to`.
    Between {
        /// The first second.
        from: DateTime<Utc>,
        /// The end, which is not part of it.
        to: DateTime<Utc>,
    },
}

impl Backfill {
    /// The range at the time `now`: its first second and its end, which is not part of it, in Unix seconds.
    ///
    /// `last` becomes whole windows - as many as it takes to reach so far back - that end at the last window edge at least
    /// `settle` ago; edges are multiples of `window` since 1970. `from` and `to` stay as they are.
    pub fn resolve(&self, now: DateTime<Utc>) -> (i64, i64) {
        match self.range {
            BackfillRange::Between { from, to } => (from.timestamp(), to.timestamp()),
            BackfillRange::Last(last) => {
                // The validation holds all three below 2^40 seconds.
                let window_s = self.window.as_secs().cast_signed();
                let settled_s = now.timestamp() - self.settle.as_secs().cast_signed();
                let end_s = settled_s.div_euclid(window_s) * window_s;
                let windows = last.as_secs().div_ceil(self.window.as_secs()).cast_signed();
                (end_s - windows * window_s, end_s)
            }
        }
    }
}

/// Which windows of a backfill come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The latest.
    NewestFirst,
    /// The earliest.
    OldestFirst,
}

/// Keeping up with new traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// When to look.
    pub ticks: Ticks,
    /// How far the newest edge stays behind now: whole seconds, 30s to 1h.
    pub delay: Duration,
    /// How long after its end a window is looked at again: whole seconds, at least `delay`.
    pub lookback: Duration,
    /// How far `lookback` may be widened: whole seconds, at least `lookback`.
    pub lookback_max: Duration,
    /// How long after its end a window is sealed: whole seconds, at least `lookback`.
    pub seal_after: Duration,
    /// How far back what was missed is filled in; `None`: all of it.
    pub catch_up: Option<Duration>,
}

/// When a poll looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ticks {
    /// At multiples of this since 1970: whole seconds, 1s to 1h.
    Every(Duration),
    /// By cron.
    Schedule(Schedule),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::instant;
    use proptest::prelude::*;

    fn backfill(last_s: u64, window_s: u64, settle_s: u64) -> Backfill {
        Backfill {
            range: BackfillRange::Last(Duration::from_secs(last_s)),
            window: Duration::from_secs(window_s),
            longest_window: Duration::from_secs(window_s),
            settle: Duration::from_secs(settle_s),
            order: Order::NewestFirst,
            schedule: None,
        }
    }

    #[test]
    fn the_last_hours_end_at_a_settled_edge() {
        let now = "2026-11-22T09:59:59Z".parse().unwrap();
        let (start_s, end_s) = backfill(86_400, 3_600, 3_600).resolve(now);
        let at = |seconds| instant::format(DateTime::from_timestamp(seconds, 0).unwrap());
        assert_eq!(
            (at(start_s), at(end_s)),
            (
                "2026-11-21T08:00:00Z".to_owned(),
                "2026-11-22T08:00:00Z".to_owned()
            )
        );
        // A quarter of an hour more than whole windows takes a window more.
        let (start_s, end_s) = backfill(86_400 + 900, 3_600, 0).resolve(now);
        assert_eq!(
            (at(start_s), at(end_s)),
            (
                "2026-11-21T08:00:00Z".to_owned(),
                "2026-11-22T09:00:00Z".to_owned()
            )
        );
    }

    proptest! {
        #[test]
        fn the_last_windows_are_whole_settled_and_enough(
            now_s in 1_000_000_000_i64..3_000_000_000,
            last_s in 1_u64..400_000_000,
            window_s in 1_u64..604_800,
            settle_s in 0_u64..100_000,
        ) {
            let (start_s, end_s) = backfill(last_s, window_s, settle_s).resolve(DateTime::from_timestamp(now_s, 0).unwrap());
            let (window_s, last_s, settle_s) = (window_s as i64, last_s as i64, settle_s as i64);
            prop_assert_eq!((start_s.rem_euclid(window_s), end_s.rem_euclid(window_s)), (0, 0));
            prop_assert!(end_s <= now_s - settle_s && end_s > now_s - settle_s - window_s);
            let length_s = end_s - start_s;
            prop_assert!(length_s >= last_s && length_s < last_s + window_s);
        }
    }
}

//! A poll's numbers, as its job file means them.

use super::{LONGEST_S, floor};
use crate::job::{Poll, Ticks};

/// Tempo hides its newest 30 s; its clock shows whole seconds, and a request takes a while.
const LEAST_DELAY_S: i64 = 32;

/// A poll's numbers, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// From tick to tick.
    pub every_s: i64,
    /// The edges of the newest windows are multiples of this.
    pub edge_s: i64,
    /// How far the newest edge stays behind the present.
    pub delay_s: i64,
    /// After this a window is looked at again.
    pub lookback_s: i64,
    /// After this it is sealed.
    pub seal_after_s: i64,
    /// What was missed longer ago is not collected; `None`: everything is.
    pub catch_up_s: Option<i64>,
}

impl Rules {
    /// The rules of a job's poll, with `lookback` widened to `widened_s` if it was, and ticks `every_s` apart (of a cron
    /// schedule: the next two).
    pub fn new(poll: &Poll, widened_s: Option<i64>, every_s: i64) -> Self {
        let seconds = |duration: std::time::Duration| {
            i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
        };
        let every_s = every_s.clamp(1, LONGEST_S);
        let lookback_s = seconds(poll.lookback);
        Self {
            every_s,
            edge_s: match poll.ticks {
                Ticks::Every(_) => every_s,
                Ticks::Schedule(_) => 1,
            },
            delay_s: seconds(poll.delay).max(LEAST_DELAY_S),
            lookback_s: widened_s
                .unwrap_or(lookback_s)
                .clamp(lookback_s, seconds(poll.lookback_max).max(lookback_s)),
            seal_after_s: seconds(poll.seal_after),
            catch_up_s: poll.catch_up.map(seconds),
        }
    }

    /// The edge that a tick at `now_s` collects up to.
    pub fn edge(&self, now_s: i64) -> i64 {
        floor(now_s - self.delay_s, self.edge_s)
    }

    /// Windows of the settled look end at multiples of this: neighbours are looked at again together.
    pub fn settled_width_s(&self) -> i64 {
        self.lookback_s.max(self.every_s).min(LONGEST_S)
    }

    /// Windows of the sealing look end at multiples of this.
    pub fn sealed_width_s(&self) -> i64 {
        self.seal_after_s.max(self.settled_width_s()).min(LONGEST_S)
    }
}

//! The window of a search: what is refused about it, and which one Tempo really searches.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Conditions;
use crate::simulator::answer::Refusal;
use crate::simulator::store::delta;

/// A window in whole seconds, both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start_s: u32,
    pub(super) end_s: u32,
}

impl Window {
    pub(super) fn check(self) -> Result<(), Refusal> {
        if self.end_s <= self.start_s {
            return Err(Refusal::bad_request(format!(
                "http parameter start must be before end. received start={} end={}",
                self.start_s, self.end_s
            )));
        }
        Ok(())
    }

    /// The window that Tempo really searches: never reaching into the newest data, and **moved** when it lies wholly inside.
    pub(super) fn clamped(self, conditions: &Conditions<'_>) -> Result<Self, Refusal> {
        let timing = conditions.timing;
        let latest = conditions.now - delta(timing.query_end_cutoff);
        let fallback_start_s = seconds(conditions.now - delta(timing.query_backend_after));
        match (self.start_s, self.end_s) {
            (0, 0) => Ok(Self {
                start_s: fallback_start_s,
                end_s: seconds(latest),
            }),
            (0, _) | (_, 0) => Err(Refusal::bad_request(
                "error parsing date range: only one of start and end provided: must provide both or neither",
            )),
            (start_s, end_s) => {
                let is_after =
                    |time_s: u32| i64::from(time_s) * 1_000_000 > latest.timestamp_micros();
                if !is_after(end_s) {
                    return Ok(self);
                }
                Ok(Self {
                    start_s: if is_after(start_s) {
                        fallback_start_s
                    } else {
                        start_s
                    },
                    end_s: seconds(latest),
                })
            }
        }
    }

    pub(super) fn nanoseconds(self) -> (u64, u64) {
        let ns = |time_s: u32| u64::from(time_s) * Duration::from_secs(1).as_nanos() as u64;
        (ns(self.start_s), ns(self.end_s))
    }
}

/// Whole seconds since 1970.
pub(super) fn seconds(time: DateTime<Utc>) -> u32 {
    u32::try_from(time.timestamp()).unwrap_or(0)
}

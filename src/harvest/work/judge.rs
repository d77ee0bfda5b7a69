//! What an answer to a search is worth: whether it is about the window, all of it, and old enough to count.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{QUERYLESS_AGE_S, Work};
use crate::{
    harvest::{Outcome, survey::QUERYLESS_MARGIN},
    split::Density,
    store::found::Found,
    tempo::{Answer, Class, Failure, wire::TraceSummary},
    window::Window,
};

/// Tempo hides its newest 30 s, and its clock shows whole seconds.
const CUTOFF_S: i64 = 31;
/// How far Tempo's clock may be behind ours for a window to wait for it, seconds.
const CLOCK_TOLERANCE_S: u64 = 600;

/// An answer that may count.
pub(in crate::harvest) enum Verdict {
    /// Everything there is.
    Whole(Found),
    /// At its limit, or stopped early; with the traces it brought, for estimates.
    Cut(Vec<TraceSummary>),
}

impl Work<'_> {
    /// Nothing later than the server's clock minus `settle` is ever marked.
    pub(in crate::harvest) fn too_young(
        &self,
        server_time: Option<DateTime<Utc>>,
        elapsed: Duration,
    ) -> Option<Outcome> {
        let asked_at = server_time.unwrap_or_else(Utc::now) - elapsed;
        let settled_at = self.claimed.window.end() + self.claimed.settle_s.max(CUTOFF_S);
        let missing_s = u64::try_from(settled_at - asked_at.timestamp())
            .ok()
            .filter(|&s| s > 0)?;
        if missing_s > CLOCK_TOLERANCE_S && settled_at <= Utc::now().timestamp() {
            return Some(Outcome::Failed(Failure::new(
                Class::Passing,
                format!(
                    "Tempo's clock says {}, {missing_s} s behind where this machine's clock puts it: correct one of them",
                    asked_at.format("%Y-%m-%dT%H:%M:%SZ")
                ),
            )));
        }
        Some(Outcome::NotYet {
            wait: Duration::from_secs(missing_s.min(600)),
            why: format!(
                "by Tempo's clock ({}) its end is {missing_s} s too young to be sealed",
                asked_at.format("%Y-%m-%dT%H:%M:%SZ")
            ),
        })
    }

    pub(super) fn is_old(&self, server_time: Option<DateTime<Utc>>) -> bool {
        self.claimed.window.end()
            <= server_time.unwrap_or_else(Utc::now).timestamp() - QUERYLESS_AGE_S
    }

    pub(in crate::harvest) fn judge(&self, answer: Answer, limit: u32) -> Result<Verdict, Failure> {
        if about_another_window(&answer, self.claimed.window) {
            let message = format!(
                "Tempo answered with {} traces, none of which overlaps the window: it moved the range asked for",
                answer.body.traces.len()
            );
            return Err(Failure::of_answer(Class::Passing, answer.status, message));
        }
        let cut = is_cut(&answer, limit);
        if let Some(spans) = answer.body.spans
            && !cut
        {
            return Ok(Verdict::Whole(Found::Spans(spans)));
        }
        let mut found = answer.body.traces;
        if self.claimed.detail == "trace" {
            // A query was sent for another reason; the dataset's rows stay alike.
            found.iter_mut().for_each(|trace| trace.services = None);
        }
        Ok(if cut {
            Verdict::Cut(found)
        } else {
            Verdict::Whole(Found::Summaries(found))
        })
    }

    /// Whether an answer to a search without a query is everything. Young blocks (and old traces may stand in young
    /// blocks) stop at the limit before they merge fragments, so such an answer can be cut below its limit: it has to
    /// stay well below that, and to bring at least as many rooted traces as the server counts.
    pub(super) fn is_vouched_for(
        &self,
        found: &[TraceSummary],
        limit: u32,
        density: Option<&Density>,
    ) -> bool {
        if found.is_empty() {
            return true;
        }
        if found.len() * QUERYLESS_MARGIN > limit as usize {
            return false;
        }
        let window = self.claimed.window;
        let known = density.as_ref().and_then(|density| density.of(window));
        let Some(counted) = self.claimed.expected.or(known) else {
            self.client().cannot_count();
            return false;
        };
        let seconds = window.start() * 1_000_000_000..window.end() * 1_000_000_000;
        let rooted = found
            .iter()
            .filter(|trace| trace.root_service.is_some() && seconds.contains(&trace.start_ns));
        let rooted = rooted.count() as u64;
        // Far fewer counted than found: this server's counts vouch for nothing.
        rooted >= counted && rooted <= counted.saturating_mul(2)
    }
}

pub(super) fn is_cut(answer: &Answer, limit: u32) -> bool {
    answer.body.traces.len() >= limit as usize || answer.body.stopped_early()
}

/// Tempo rewrites a range that lies wholly in its newest seconds, and says nothing: then none of what comes overlaps the
/// window. A trace that starts longer before it than a duration can tell (49.7 days, or at zero) may well reach into it.
pub(super) fn about_another_window(answer: &Answer, window: Window) -> bool {
    let traces = &answer.body.traces;
    let untold_ns = (window.start() - i64::from(u32::MAX) / 1_000).saturating_mul(1_000_000_000);
    // Durations come cut off to the millisecond: a trace may reach into the window with what was cut off.
    let overlaps = |trace: &TraceSummary| {
        let latest_end_ns = trace.end_ns().saturating_add(999_999);
        trace.start_ns < untold_ns || window.overlaps_ns(trace.start_ns, latest_end_ns)
    };
    !traces.is_empty() && !traces.iter().any(overlaps)
}

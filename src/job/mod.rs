//! Job files: what to collect, read from TOML into values that cannot be wrong.
//!
//! ```text
//! text ── tree ── structure (held against the schema) ── spec (literal) ── validate ── Job
//!                                                             └── source (resolved where it is used)
//! ```
//!
//! [`load`] reads job files for use; [`check`] says everything that is wrong with them. Both report all problems at once,
//! each with file, line, column, key and fix ([`diagnostics`]). The clock and the environment are passed in. What is done
//! with a job - planning, fetching, storing - is left to others; so is whether a dataset was collected with another query
//! ([`Job::refusal`] helps to say so at the right place).

mod attributes;
pub mod diagnostics;
pub mod duration;
pub mod env;
mod files;
mod http_header;
pub mod instant;
mod load;
mod reader;
pub mod schedule;
mod schema;
mod secret_file;
mod secrets;
mod source;
pub mod spec;
mod structure;
mod summary;
mod template;
mod traceql;
mod tree;
mod validate;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

pub use self::diagnostics::{Diagnostic, Diagnostics, KeyPath, Position, Problem};
pub use self::duration::parse as parse_duration;
pub use self::env::{Env, ProcessEnv};
pub use self::instant::parse as parse_instant;
pub use self::load::{
    CheckOptions, CheckedFile, Content, LoadOptions, Loaded, Report, check, files_of, load,
    load_each,
};
pub use self::schedule::Schedule;
pub use self::schema::{job_schema, sources_schema};
pub use self::source::{Auth, Limits, Source, Tls, TracesPerRequest};
pub use self::spec::{Compression, SourceSpec};
pub use self::summary::Outline;
pub use self::template::{Template, TemplateError};

use self::diagnostics::Positions;

/// The longest that a backfill's window becomes unless `window` is written.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(86_400);
/// The longest range that is collected at once: ten years.
pub const LONGEST_RANGE_S: i64 = 3_650 * 86_400;
/// The most windows that one submission may plan.
pub const MOST_WINDOWS: i64 = 1_000_000;

/// A job: what a valid job file amounts to, in this environment.
#[derive(Clone)]
pub struct Job {
    /// The job's name; no other job loaded with it has it.
    pub name: String,
    /// The dataset that its traces and their coverage belong to.
    pub dataset: String,
    /// Whether it runs at all.
    pub enabled: bool,
    /// By whose clocks its schedules tick, and its baseline's hours and weekends are counted.
    pub timezone: Tz,
    /// The Tempo to collect from.
    pub source: Source,
    /// The same, unexpanded. Store only what [`SourceSpec::storable`] returns.
    pub source_spec: SourceSpec,
    /// Which traces, and how much of them.
    pub select: Select,
    /// Collecting what lies in the past. This, or `poll`, or both.
    pub backfill: Option<Backfill>,
    /// Keeping up with new traces.
    pub poll: Option<Poll>,
    /// What is usual.
    pub baseline: Option<Baseline>,
    /// How long what was collected is kept; `None`: for ever.
    pub retention: Option<Retention>,
    /// Comparing with what Tempo has, on a schedule; `None`: only when `verify` is called.
    pub verify: Option<Verify>,
    /// The job file, as it was named.
    pub file: PathBuf,
    /// The TOML as it is written: unexpanded, but with the literal secrets of an inline source, if there are any.
    pub text: String,
    storable_text: String,
    positions: Positions,
}

/// Which traces, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// A TraceQL query; `None` collects every trace. It has no hints, and its brackets and quotes pair up; Tempo has the last word.
    pub query: Option<String>,
    /// How much of each trace.
    pub detail: Detail,
    /// Attributes that spans are stored with, each by its name with scope and without quotes, sorted; none but with the detail
    /// `spans`.
    pub attributes: Vec<String>,
}

/// How much of each trace is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// ID, root, start and duration.
    Trace,
    /// Also spans and errors per service.
    Services,
    /// Also every span, and start, end and counts of each trace computed from them.
    Spans,
}

impl Detail {
    /// The word that job files, tables and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Services => "services",
            Self::Spans => "spans",
        }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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

/// What is usual, computed from the traces collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// How often what has changed is computed again: whole seconds, 1s to 1d.
    pub every: Duration,
    /// How far back it looks from the newest trace stored: whole seconds, 1h to 365d.
    pub history: Duration,
}

/// How long what was collected is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Traces are deleted so long after their start: whole seconds, 1h to 3650d.
    pub traces: Duration,
}

/// Comparing what was collected with what Tempo has, on a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// When.
    pub schedule: Schedule,
    /// How far back from now: whole seconds, 1h to 3650d.
    pub last: Duration,
    /// Whether everything is listed again, or only counted.
    pub deep: bool,
}

impl Job {
    /// The TOML as it may be stored: unexpanded, and without the literal secrets of an inline source.
    pub fn storable_text(&self) -> &str {
        &self.storable_text
    }

    /// What is possible and may not be meant, each with the job's name.
    pub fn warnings(&self) -> Vec<String> {
        summary::warnings(&self.name, self.backfill.as_ref(), self.poll.as_ref())
    }

    /// Where the value of a key begins, such as `select.query` or `dataset`; `None` when it is not written.
    ///
    /// `source.url` and the like are found in `sources.toml` where the source is one of those.
    pub fn position_of(&self, key: &str) -> Option<Position> {
        self.positions.value(key).cloned()
    }

    /// `message`, said of the value of `key`, at its place; of a key that is not written, at the file as a whole.
    ///
    /// For what only shows when a valid job meets the database or Tempo.
    pub fn refusal(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        match self.position_of(key) {
            Some(position) => Diagnostic::at(&position, message).key(key),
            None => Diagnostic::file(&self.file, message).key(key),
        }
    }
}

/// Without the texts, which may hold secrets.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .field("dataset", &self.dataset)
            .field("enabled", &self.enabled)
            .field("timezone", &self.timezone)
            .field("source", &self.source)
            .field("source_spec", &self.source_spec)
            .field("select", &self.select)
            .field("backfill", &self.backfill)
            .field("poll", &self.poll)
            .field("baseline", &self.baseline)
            .field("retention", &self.retention)
            .field("verify", &self.verify)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

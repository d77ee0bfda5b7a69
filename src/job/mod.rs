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
mod datasets;
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
mod times;
pub mod traceql;
mod tree;
mod validate;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

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
pub use self::times::{Backfill, BackfillRange, Order, Poll, Ticks};

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
